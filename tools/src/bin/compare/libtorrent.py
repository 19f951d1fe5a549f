# libtorrent has no program of its own: download and leave, seed until killed, or check and leave.
import sys, time
import libtorrent as lt

what, profile, folder, port, *torrents = sys.argv[1:]
if torrents[0].startswith('@'):
    torrents = open(torrents[0][1:]).read().split('\n')
settings = {}
if profile == 'tuned':
    settings = lt.high_performance_seed()
    settings.update({
        'aio_threads': 2, 'hashing_threads': 2, 'max_queued_disk_bytes': 64 << 20, 'send_buffer_watermark': 8 << 20,
        'send_buffer_low_watermark': 2 << 20, 'send_buffer_watermark_factor': 300, 'max_out_request_queue': 2000,
        'request_queue_time': 10})
settings.update({
    'listen_interfaces': '127.0.0.1:' + port, 'enable_dht': False, 'enable_lsd': False, 'enable_upnp': False,
    'enable_natpmp': False, 'enable_outgoing_utp': False, 'enable_incoming_utp': False, 'alert_mask': 0,
    'allow_multiple_connections_per_ip': True, 'connections_limit': 20000, 'unchoke_slots_limit': -1,
    'max_allowed_in_request_queue': 20000, 'active_seeds': 100000, 'active_limit': 100000,
    'in_enc_policy': int(lt.enc_policy.pe_disabled), 'out_enc_policy': int(lt.enc_policy.pe_disabled)})
session = lt.session(settings)
handles = []
for torrent in torrents:
    p = lt.add_torrent_params()
    p.ti, p.save_path, p.max_connections = lt.torrent_info(torrent), folder, 20000
    p.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    if what == 'trust':
        p.flags |= lt.torrent_flags.seed_mode
    handles.append(session.add_torrent(p))
if what in ('seed', 'trust'):
    while True:
        time.sleep(1000)
while not all(h.status().is_seeding for h in handles):
    time.sleep(0.005)
for h in handles:
    h.flush_cache()
