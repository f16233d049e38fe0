#!/usr/bin/env bash

#BSUB -J dask-worker
#BSUB -e daskmlr-logs/dummy-name-%J.err
#BSUB -o daskmlr-logs/dummy-name-%J.out
#BSUB -n 8
#BSUB -R "span[hosts=1]"
#BSUB -M 34359739
#BSUB -W 04:00

python -m distributed.cli.dask_worker tcp://<insert-scheduler-address-here>:8786 --name dummy-name --nthreads 8 --memory-limit 32.00GiB --nanny --death-timeout 300 --local-directory ${TMPDIR:-/tmp} --lifetime 225m --lifetime-stagger 10m --dashboard-address 127.0.0.1:0 --protocol tls:// --tls-ca-file CA --tls-cert CERT --tls-key KEY
