"""Dask Gateway for SLURM: dask-gateway-server -f dask_gateway_config.py.

Users who are known to JupyterHub start Dask clusters by the gateway's address, within these limits.
"""

c = get_config()  # noqa: F821 - given by the server that loads this file

# Who may: users of JupyterHub. The token is in the environment, as JUPYTERHUB_API_TOKEN.
c.DaskGateway.authenticator_class = "dask_gateway_server.auth.JupyterHubAuthenticator"
c.JupyterHubAuthenticator.jupyterhub_api_url = "https://hub.example.org/hub/api"

# One port for all: the API and dashboards by HTTPS, schedulers by TLS. The gateway makes the
# certificates of each Dask cluster itself, and hands them to its owner alone.
c.Proxy.address = ":8443"
c.Proxy.tls_cert = "/etc/dask-gateway/tls.crt"
c.Proxy.tls_key = "/etc/dask-gateway/tls.key"

# Where: jobs of SLURM, as the user, by sudo. For PBS: jobqueue.pbs.PBSBackend, PBSClusterConfig.
c.DaskGateway.backend_class = "dask_gateway_server.backends.jobqueue.slurm.SlurmBackend"
c.SlurmClusterConfig.partition = "main"
c.SlurmClusterConfig.scheduler_setup = ". /opt/daskmlr/bin/activate"
c.SlurmClusterConfig.worker_setup = ". /opt/daskmlr/bin/activate"

# Dask clusters outlive a restart of the server: it keeps them in a file, encrypted by the key in
# DASK_GATEWAY_ENCRYPT_KEYS (made once, by `openssl rand -base64 32`).
c.SlurmBackend.db_url = "sqlite:////var/lib/dask-gateway/gateway.sqlite"
c.SlurmBackend.stop_clusters_on_shutdown = False

# What: commands in the environment above, sizes of a worker and of the scheduler, and how much one
# Dask cluster may have.
c.ClusterConfig.scheduler_cmd = ["dask", "scheduler"]
c.ClusterConfig.worker_cmd = ["dask", "worker"]
c.ClusterConfig.worker_cores = 8
c.ClusterConfig.worker_memory = "32 G"
c.ClusterConfig.scheduler_cores = 1
c.ClusterConfig.scheduler_memory = "4 G"
c.ClusterConfig.cluster_max_workers = 32
c.ClusterConfig.idle_timeout = 1800  # seconds after which a Dask cluster that was forgotten ends
