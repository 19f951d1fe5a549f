"""A headless client on libtorrent's Python binding, for the interop runner.

lt_client.py ROLE TORRENT|MAGNET DIR IP PORT HOME [name=value ...]
lt_client.py nodes PORT IP...

`nodes` is a DHT node on each address and nothing else; what is announced to them is printed. Otherwise:

ROLE  seed   the data is complete: trust it and seed
      leech  download; an incomplete DIR is hash-checked first
HOME/done is written when every piece is there and flushed. `peer=HOST:PORT` dials a peer, `extension=NAME`
loads one, `dht=HOST:PORT` begins its DHT node there; any other name=value is a libtorrent setting. TCP only, and nothing that looks for peers by itself
unless it is told to.
"""
import os
import sys
import time

import libtorrent as lt


def dht_settings(ip, port, first):
    """A DHT node in a network in which all addresses are alike."""
    return {
        "listen_interfaces": f"{ip}:{port}",
        "enable_dht": True,
        "dht_bootstrap_nodes": first,
        "dht_restrict_routing_ips": False,
        "dht_restrict_search_ips": False,
        "dht_block_ratelimit": 1000,
        "dht_announce_interval": 5,
    }


if sys.argv[1] == "nodes":
    port, ips = int(sys.argv[2]), sys.argv[3:]
    quiet = {"enable_lsd": False, "enable_upnp": False, "enable_natpmp": False}
    quiet["alert_mask"] = int(lt.alert.category_t.dht_notification)
    sessions = [lt.session({**quiet, **dht_settings(ip, port, "")}) for ip in ips]
    # Left to themselves they would need minutes to find each other.
    for own, session in zip(ips, sessions):
        for ip in ips:
            if ip != own:
                session.add_dht_node((ip, port))
    while True:
        for session in sessions:
            for alert in session.pop_alerts():
                if type(alert).__name__ == "dht_announce_alert":
                    print("announced", alert.ip, alert.port, alert.info_hash, flush=True)
        time.sleep(0.1)

role, torrent, folder, ip, port, home = sys.argv[1:7]
peers = []
extensions = ["ut_metadata"]
settings = {
    "listen_interfaces": f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}",
    "outgoing_interfaces": ip,
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "in_enc_policy": int(lt.enc_policy.pe_disabled),
    "out_enc_policy": int(lt.enc_policy.pe_disabled),
    "allow_multiple_connections_per_ip": True,
    "min_reconnect_time": 1,
    "alert_mask": int(
        lt.alert.category_t.error_notification
        | lt.alert.category_t.status_notification
        | lt.alert.category_t.storage_notification
        | lt.alert.category_t.tracker_notification
        | lt.alert.category_t.connect_notification
    ),
}
for pair in sys.argv[7:]:
    name, value = pair.split("=", 1)
    if name == "peer":
        host, at = value.rsplit(":", 1)
        peers.append((host, int(at)))
    elif name == "dht":
        settings.update(dht_settings(ip, port, value))
    elif name == "extension":
        extensions.append(value)
    else:
        settings[name] = int(value) if value.lstrip("-").isdigit() else value

# The default session brings ut_metadata, ut_pex and smart_ban; without flags it brings none of them.
session = lt.session(settings, flags=0) if hasattr(lt, "session_flags_t") else lt.session(settings)
for name in extensions:
    session.add_extension(name)
if torrent.startswith("magnet:"):
    params = lt.parse_magnet_uri(torrent)
else:
    params = lt.add_torrent_params()
    params.ti = lt.torrent_info(torrent)
params.save_path = folder
params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
if role == "seed":
    params.flags |= lt.torrent_flags.seed_mode
handle = session.add_torrent(params)
for peer in peers:
    handle.connect_peer(peer)

finished = False
while True:
    session.wait_for_alert(500)
    for alert in session.pop_alerts():
        kind = type(alert).__name__
        print(kind, alert.message(), flush=True)
        if kind == "torrent_finished_alert" and not finished:
            finished = True
            handle.flush_cache()
        if kind == "cache_flushed_alert" and finished:
            open(os.path.join(home, "done"), "w").close()
