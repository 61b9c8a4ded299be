"""The names under /proc/sys/net/ipv4/vs (facts 9.4): what each is by default."""

DEFAULTS = {
    "amemthresh": 1024,
    "am_droprate": 10,
    "snat_reroute": 1,
    "sync_version": 1,
    "sync_ports": 1,
    "sync_threshold": 3,
    "sync_period": 50,
    "pmtu_disc": 1,
    "conn_reuse_mode": 1,
    "run_estimation": 1,
    "lblc_expiration": 86400,
    "lblcr_expiration": 86400,
    "conn_lfactor": -4,
    "svc_lfactor": -3,
    "conn_max": 1 << 30,
}
