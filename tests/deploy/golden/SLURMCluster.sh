#!/usr/bin/env bash

#SBATCH -J dask-worker
#SBATCH -e daskmlr-logs/dask-worker-%J.err
#SBATCH -o daskmlr-logs/dask-worker-%J.out
#SBATCH -n 1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH -t 04:00:00

python -m distributed.cli.dask_worker tcp://<insert-scheduler-address-here>:8786 --name dummy-name --nthreads 8 --memory-limit 32.00GiB --nanny --death-timeout 300 --local-directory ${TMPDIR:-/tmp} --lifetime 225m --lifetime-stagger 10m --dashboard-address 127.0.0.1:0 --protocol tls:// --tls-ca-file CA --tls-cert CERT --tls-key KEY
