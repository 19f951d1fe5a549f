//! Schedules as exact virtual times.

use super::*;
use crate::http::Scheme;

/// A [`Tiers`], the dice, and short words for what happens to it. Times are seconds.
struct Desk {
    tiers: Tiers,
    rng: Rng,
}

fn at(s: u64) -> Instant {
    Instant::from_secs(s)
}

fn interval(s: u64) -> Reply {
    Reply { interval: Some(Duration::from_secs(s)), ..Reply::default() }
}

impl Desk {
    fn new(tiers: &[&[&str]]) -> Self {
        let tiers: Vec<Vec<String>> =
            tiers.iter().map(|t| t.iter().map(|h| format!("http://{h}/announce")).collect()).collect();
        let mut rng = crate::rng::seeded(1);
        Self { tiers: Tiers::new(&tiers, &mut rng), rng }
    }

    fn started(tiers: &[&[&str]]) -> Self {
        let mut d = Self::new(tiers);
        d.tiers.start(at(0));
        d
    }

    /// "host event" of what is due, or "-".
    fn due(&mut self, s: u64) -> String {
        match self.tiers.poll(at(s)) {
            Some(due) => format!("{} {}", due.url.host, due.event.name().unwrap_or("none")),
            None => "-".into(),
        }
    }

    fn under_way(&self) -> TrackerIdx {
        self.tiers.under_way.expect("an announce is under way").0
    }

    fn reply(&mut self, s: u64, reply: &Reply) {
        self.tiers.on_reply(at(s), self.under_way(), reply);
    }

    fn fail(&mut self, s: u64, error: &TrackerError) -> bool {
        self.tiers.on_error(at(s), self.under_way(), error, &mut self.rng)
    }

    fn timeout(&mut self, s: u64) -> bool {
        self.fail(s, &TrackerError::Timeout)
    }

    /// Seconds until the next deadline, rounded down.
    fn wait(&self, s: u64) -> Option<u64> {
        self.tiers.deadline().map(|d| (d - at(s)).as_secs())
    }

    fn states(&self) -> Vec<(String, &'static str)> {
        self.tiers.status().map(|s| (s.url, s.state)).collect()
    }
}

#[test]
fn a_quiet_life() {
    let mut d = Desk::new(&[&["a"]]);
    assert_eq!((d.due(0), d.tiers.deadline(), d.tiers.idle()), ("-".into(), None, true));
    d.tiers.start(at(5));
    assert_eq!(d.tiers.deadline(), Some(at(5)));
    let due = d.tiers.poll(at(5)).unwrap();
    assert_eq!((due.event, due.numwant, due.tracker_id), (Event::Started, limits::NUMWANT, None));
    assert_eq!((d.due(5), d.tiers.deadline()), ("-".into(), None));
    let id = Some(b"id".to_vec());
    d.reply(6, &Reply { seeders: Some(3), tracker_id: id.clone(), ..interval(1800) });
    assert_eq!((d.due(1805), d.tiers.deadline()), ("-".into(), Some(at(1806))));
    let due = d.tiers.poll(at(1806)).unwrap();
    assert_eq!((due.event, due.tracker_id), (Event::None, id));
    d.reply(1807, &interval(1800));
    d.tiers.completed(at(2000));
    assert_eq!(d.due(2000), "a completed");
    d.reply(2000, &interval(1800));
    d.tiers.completed(at(2001));
    assert_eq!(d.wait(2000), Some(1800), "completed once only");
    d.tiers.stop(at(2500));
    assert!(!d.tiers.idle());
    assert_eq!(d.tiers.deadline(), Some(Instant::ZERO));
    let due = d.tiers.poll(at(2500)).unwrap();
    assert_eq!((due.event, due.numwant), (Event::Stopped, 0));
    d.reply(2501, &interval(1800));
    assert!(d.tiers.idle());
    assert_eq!((d.due(9999), d.tiers.deadline()), ("-".into(), None));
}

#[test]
fn intervals_are_clamped() {
    let (least, most) = limits::ANNOUNCE_INTERVAL;
    let (least, most) = (least.as_secs(), most.as_secs());
    assert_eq!((least, most), (60, 86_400));
    for (given, want) in [
        (Some(0), least),
        (Some(least - 1), least),
        (Some(least), least),
        (Some(least + 1), least + 1),
        (Some(most), most),
        (Some(most + 1), most),
        (Some(1 << 31), most),
        (None, 1800),
    ] {
        let mut d = Desk::started(&[&["a"]]);
        d.due(0);
        d.reply(0, &Reply { interval: given.map(Duration::from_secs), ..Reply::default() });
        assert_eq!(d.wait(0), Some(want), "{given:?}");
    }
    // A minimum above the interval wins.
    let mut d = Desk::started(&[&["a"]]);
    d.due(0);
    d.reply(0, &Reply { min_interval: Some(Duration::from_secs(900)), ..interval(100) });
    assert_eq!(d.wait(0), Some(900));
}

#[test]
fn wanting_more_peers_respects_the_minimum_interval() {
    for (min, interval_s, want) in [(Some(120), 1800, 120), (None, 1800, 300), (None, 100, 100), (Some(1), 1800, 60)] {
        let mut d = Desk::started(&[&["a"]]);
        d.due(0);
        d.reply(0, &Reply { min_interval: min.map(Duration::from_secs), ..interval(interval_s) });
        d.tiers.announce_now(at(10));
        assert_eq!(d.tiers.deadline(), Some(at(want)), "{min:?} {interval_s}");
        assert_eq!(d.due(want - 1), "-");
        assert_eq!(d.due(want), "a none");
    }
    let mut d = Desk::started(&[&["a"]]);
    d.due(0);
    d.timeout(0);
    d.tiers.announce_now(at(1));
    assert_eq!(d.due(16), "-", "back-off too");
}

#[test]
fn the_first_working_tracker_of_the_first_working_tier() {
    let mut d = Desk::started(&[&["a", "b", "c"], &["d"]]);
    let first: Vec<String> = (0..3)
        .map(|_| {
            let due = d.due(0);
            d.timeout(0);
            due
        })
        .collect();
    let mut sorted = first.clone();
    sorted.sort();
    assert_eq!(sorted, ["a started", "b started", "c started"]);
    assert_eq!(d.due(0), "d started");
    d.reply(0, &interval(600));
    // The next round begins with the first tier again; who answers moves to its front.
    assert_eq!(d.due(600), first[0]);
    d.timeout(600);
    assert_eq!(d.due(600), first[1]);
    d.reply(600, &interval(600));
    let front = first[1].replace(" started", "");
    assert_eq!(d.tiers.status().next().unwrap().url, format!("http://{front}/announce"));
    assert_eq!(d.due(1200), format!("{front} none"));
    d.reply(1200, &interval(600));
    // Both that took a `started` are told.
    d.tiers.stop(at(1300));
    assert_eq!(d.due(1300), format!("{front} stopped"));
    d.reply(1300, &interval(600));
    assert_eq!(d.due(1300), "d stopped");
    d.timeout(1302);
    assert!(d.tiers.idle());
}

#[test]
fn tiers_are_shuffled_inside_only() {
    let urls = |seed| {
        let tier = |c: &str| (0..8).map(|i| format!("http://{c}{i}/")).collect::<Vec<_>>();
        let t = Tiers::new(&[tier("a"), tier("b")], &mut crate::rng::seeded(seed));
        t.status().map(|s| s.url).collect::<Vec<_>>()
    };
    assert_eq!(urls(1), urls(1));
    assert_ne!(urls(1), urls(2));
    assert!(urls(3)[..8].iter().all(|u| u.starts_with("http://a")), "{:?}", urls(3));
}

#[test]
fn backing_off() {
    let mut d = Desk::started(&[&["a"]]);
    let (mut now, mut waits) = (0, Vec::new());
    for _ in 0..20 {
        assert_eq!(d.due(now), "a started");
        d.timeout(now);
        assert_eq!(d.due(now), "-");
        waits.push(d.wait(now).unwrap());
        now += waits.last().unwrap() + 1;
    }
    for (n, wait) in waits.iter().enumerate() {
        let base = (5.0 + 12.5 * ((n + 1) * (n + 1)) as f64).min(3600.0);
        assert!((base.floor()..=(base * 1.1).min(3600.0)).contains(&(*wait as f64)), "failure {}: {wait} s", n + 1);
    }
    d.due(now);
    d.reply(now, &interval(100));
    now += 100;
    d.due(now);
    d.timeout(now);
    assert!((17..=19).contains(&d.wait(now).unwrap()), "a success forgives all");
}

#[test]
fn a_tracker_may_say_when_to_come_back() {
    let failure = |retry_in| TrackerError::Failure { reason: "no".into(), retry_in };
    let mut d = Desk::started(&[&["a"]]);
    d.due(0);
    d.fail(0, &failure(Some(Duration::from_secs(7200))));
    assert_eq!(d.wait(0), Some(7200));
    d.due(7200);
    d.fail(7200, &failure(Some(Duration::ZERO)));
    assert!(d.wait(7200).unwrap() >= 55, "sooner than the back-off it is not");
    let later = d.tiers.deadline().unwrap().as_micros() / 1_000_000 + 1;
    d.due(later);
    d.fail(later, &failure(Some(Duration::MAX)));
    assert_eq!((d.tiers.deadline(), d.due(u64::MAX / 2_000_000)), (None, "-".into()));
    assert_eq!(d.states(), [("http://a/announce".to_owned(), "unusable")]);
}

#[test]
fn when_there_was_no_network_no_failure_counts() {
    let mut d = Desk::started(&[&["a"], &["b"]]);
    let mut now = 0;
    for _ in 0..16 {
        d.due(now);
        d.timeout(now);
        now += d.wait(now).unwrap() + 1;
    }
    assert!(d.wait(now - 500).unwrap() > 400, "it is far off");
    now -= 500;
    d.tiers.on_network(at(now));
    assert_eq!((d.due(now).as_str(), d.timeout(now)), ("a started", false));
    assert_eq!((d.due(now).as_str(), d.timeout(now)), ("b started", false));
    assert!((17..=19).contains(&d.wait(now).unwrap()), "as after a first failure: {:?}", d.wait(now));
    // What was told to be left alone for good still is.
    let mut d = Desk::started(&[&["a"]]);
    d.due(0);
    d.fail(0, &TrackerError::Failure { reason: "no".into(), retry_in: Some(Duration::MAX) });
    d.tiers.on_network(at(1));
    assert_eq!(d.due(1), "-");
}

#[test]
fn says_so_once() {
    let mut d = Desk::started(&[&["a"]]);
    d.due(0);
    assert!(d.timeout(0));
    d.due(100);
    assert!(!d.timeout(100));
    d.due(1000);
    assert!(d.fail(1000, &TrackerError::Status { code: 503 }), "another kind");
    d.due(2000);
    assert!(!d.fail(2000, &TrackerError::Status { code: 500 }));
    d.due(3000);
    d.reply(3000, &interval(60));
    d.due(4000);
    assert!(d.timeout(4000), "it had worked in between");
}

#[test]
fn what_cannot_be_spoken_is_tried_once_and_told() {
    let tiers = [vec!["udp://a:1/".to_owned()], vec!["http://b/".into()]];
    let mut rng = crate::rng::seeded(1);
    let mut d = Desk { tiers: Tiers::new(&tiers, &mut rng), rng };
    d.tiers.start(at(0));
    assert_eq!(d.due(0), "a started");
    assert!(d.fail(0, &TrackerError::Unsupported(Scheme::Udp)));
    assert_eq!(d.due(0), "b started");
    d.reply(0, &interval(60));
    assert_eq!(d.due(60), "b none");
}

#[test]
fn the_unusable_is_remembered() {
    let long = format!("http://h/{}", "x".repeat(limits::URL));
    let tier: Vec<String> = [
        "http://a/?passkey=1",
        " HTTP://A:80/?passkey=1",
        "*http://b/",
        "wss://c/?passkey=2",
        "",
        "http://u:pw@[/",
        long.as_str(),
    ]
    .map(String::from)
    .to_vec();
    let mut rng = crate::rng::seeded(1);
    let mut t = Tiers::new(&[vec![], tier, vec!["http://a/?passkey=1".into()]], &mut rng);
    let mut shown: Vec<_> = t.status().map(|s| (s.url, s.state, s.last_error.is_some())).collect();
    shown.sort();
    let want = [
        ("http://a/?passkey=...", "waiting", false),
        ("http://b/", "disabled", false),
        (&long[..60], "unusable", true),
        ("http://u:pw", "unusable", true),
        ("wss://c/", "unusable", true),
    ];
    assert_eq!(shown, want.map(|(u, s, e)| (u.to_owned(), s, e)));
    assert!(!t.is_empty());
    assert!(!t.add("http://a/?passkey=1"));
    assert!(!t.add("*http://d/"));
    assert!(t.add("http://d/"), "enabled in spite of the disabled one");
    for i in 0..200 {
        t.add(&format!("http://h{i}/"));
    }
    assert_eq!(t.status().count(), limits::TRACKERS);
    assert!(Tiers::new(&[vec!["*http://b/".into()]], &mut rng).is_empty());
}

#[test]
fn an_added_tracker_helps_out_at_once() {
    let mut d = Desk::started(&[&["a"]]);
    d.due(0);
    d.timeout(0);
    assert!(d.tiers.add("http://b/announce"));
    assert_eq!(d.due(1), "b started");
    d.reply(1, &interval(600));
    assert!(d.tiers.add("http://c/announce"));
    assert_eq!(d.wait(1), Some(600), "b works");
}

#[test]
fn leaving_says_completed_then_stopped() {
    let mut d = Desk::started(&[&["a"]]);
    d.due(0);
    d.reply(0, &interval(600));
    d.tiers.completed(at(10));
    d.tiers.stop(at(10));
    assert_eq!(d.due(10), "a completed");
    d.reply(10, &interval(600));
    assert_eq!(d.due(10), "a stopped");
    d.reply(10, &interval(600));
    assert!(d.tiers.idle());
}

#[test]
fn leaving_waits_for_what_is_under_way() {
    let mut d = Desk::started(&[&["a"]]);
    d.due(0);
    d.tiers.stop(at(1));
    assert_eq!((d.due(1), d.tiers.idle(), d.tiers.deadline()), ("-".into(), false, Some(at(3))));
    d.reply(2, &interval(600));
    assert_eq!(d.due(2), "a stopped");
    assert_eq!(limits::TRACKER_STOP, Duration::from_secs(5));
    let end = at(2) + limits::TRACKER_STOP;
    assert_eq!(d.tiers.deadline(), Some(end));
    let mut due = |now| (d.tiers.poll(now).is_some(), d.tiers.idle());
    assert_eq!(due(Instant::from_micros(end.as_micros() - 1)), (false, false));
    assert_eq!(due(end), (false, true));
    // Its answer comes too late to matter.
    d.tiers.on_reply(at(8), TrackerIdx(0), &interval(600));
    assert!(d.tiers.idle());

    let mut d = Desk::started(&[&["a"]]);
    d.due(0);
    d.tiers.stop(at(1));
    assert!(!d.timeout(2), "nobody asks any more");
    assert!(d.tiers.idle());
    let mut d = Desk::started(&[&["a"]]);
    d.tiers.stop(at(0));
    assert!(d.tiers.idle(), "nobody knows us");
}

#[test]
fn staying_after_all() {
    let mut d = Desk::started(&[&["a"]]);
    d.due(0);
    d.reply(0, &interval(600));
    d.tiers.stop(at(10));
    d.tiers.start(at(10));
    assert_eq!(d.wait(0), Some(600), "it never heard of it");

    let mut d = Desk::started(&[&["a"]]);
    d.due(0);
    d.reply(0, &interval(600));
    d.tiers.stop(at(10));
    assert_eq!(d.due(10), "a stopped");
    d.tiers.start(at(11));
    assert_eq!(d.due(11), "-");
    d.reply(12, &interval(600));
    assert_eq!(d.due(12), "a started");
    d.reply(12, &interval(600));
    assert_eq!(d.wait(12), Some(600));
}

#[test]
fn completed_is_for_transitions_only() {
    let mut d = Desk::new(&[&["a"]]);
    d.tiers.completed(at(0));
    d.tiers.start(at(0));
    assert_eq!(d.due(0), "a started");
    d.reply(0, &interval(600));
    assert_eq!(d.wait(0), Some(600), "was complete before");

    // Complete before any tracker was reached: `started` first, then `completed`, without a wait.
    let mut d = Desk::started(&[&["a"], &["b"]]);
    d.due(0);
    d.tiers.completed(at(1));
    d.timeout(1);
    assert_eq!(d.due(1), "b started");
    d.reply(1, &interval(600));
    assert_eq!(d.due(1), "b completed");
    // It fails: told with its next announce.
    d.timeout(2);
    assert_eq!(d.due(3), "-");
    assert_eq!(d.due(30), "a started");
    d.timeout(30);
    assert_eq!(d.due(30), "b completed");
    d.reply(30, &interval(600));
    assert_eq!(d.wait(30), Some(600));
}

#[test]
fn status_tells_how_it_goes() {
    let mut d = Desk::started(&[&["a"], &["b"]]);
    let state = |d: &Desk| d.states().into_iter().map(|s| s.1).collect::<Vec<_>>();
    assert_eq!(state(&d), ["waiting", "waiting"]);
    d.due(0);
    assert_eq!(state(&d), ["announcing", "waiting"]);
    d.timeout(0);
    d.due(0);
    d.reply(0, &Reply { seeders: Some(1), leechers: Some(2), ..interval(600) });
    assert_eq!(state(&d), ["failing", "working"]);
    let all: Vec<_> = d.tiers.status().collect();
    assert_eq!((all[0].fails, all[0].last_error.as_deref(), all[0].tier), (1, Some("no answer in time"), 0));
    assert_eq!((all[1].next, all[1].seeders, all[1].leechers, all[1].tier), (Some(at(600)), Some(1), Some(2), 1));
    assert_eq!(all[1].last_event, Some(Event::Started));
}

/// Whatever happens: one announce at a time, never twice within a minute but for events, and it
/// comes to rest after `stop`.
#[test]
fn any_course_of_events_keeps_the_rules() {
    for seed in 0..300 {
        let mut rng = crate::rng::seeded(seed);
        let mut d = Desk::new(&[&["a", "b"], &["c"]]);
        let (mut now, mut answered) = (0u64, [None::<u64>; 3]);
        for _ in 0..300 {
            match rng.u32(..12) {
                0 => d.tiers.start(at(now)),
                1 if rng.bool() => d.tiers.completed(at(now)),
                2 if rng.u32(..8) == 0 => d.tiers.stop(at(now)),
                3 => d.tiers.announce_now(at(now)),
                4 => now += rng.u64(..400),
                5 | 6 if d.tiers.under_way.is_some() => {
                    answered[d.under_way().idx()] = Some(now);
                    d.reply(now, &interval(rng.u64(..900)));
                }
                7 if d.tiers.under_way.is_some() => {
                    answered[d.under_way().idx()] = None;
                    d.timeout(now);
                }
                _ => {
                    let before = d.tiers.under_way;
                    if let Some(due) = d.tiers.poll(at(now)) {
                        assert_eq!(before, None);
                        let soon = answered[due.tracker.idx()].is_some_and(|l| now < l + 60);
                        assert!(due.event != Event::None || !soon, "seed {seed} at {now}");
                    } else if let Some(deadline) = d.tiers.deadline() {
                        assert!(deadline > at(now), "seed {seed}: a deadline that has passed, and nothing due");
                        if rng.bool() {
                            now = deadline.as_micros() / 1_000_000 + 1;
                        }
                    }
                }
            }
        }
        d.tiers.stop(at(now));
        for _ in 0..10 {
            d.tiers.poll(at(now));
            now += 1;
        }
        assert!(d.tiers.idle(), "seed {seed}");
        assert!(d.tiers.trackers.iter().all(|t| !t.started));
    }
}
