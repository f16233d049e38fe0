#!/usr/bin/env bash

#PBS -N dask-worker
#PBS -l select=1:ncpus=8:mem=32GB
#PBS -l walltime=04:00:00
#PBS -e daskmlr-logs/
#PBS -o daskmlr-logs/

python -m distributed.cli.dask_worker tcp://<insert-scheduler-address-here>:8786 --name dummy-name --nthreads 8 --memory-limit 32.00GiB --nanny --death-timeout 300 --local-directory ${TMPDIR:-/tmp} --lifetime 225m --lifetime-stagger 10m --dashboard-address 127.0.0.1:0 --protocol tls:// --tls-ca-file CA --tls-cert CERT --tls-key KEY
