//! Lines that are shared.

use super::*;
use crate::rng::seeded;

const SLOW: u64 = 8_000;

/// One host with a slow uplink, and others with fast lines that read all that comes.
struct Rig {
    net: Net,
    open: Vec<WireKey>,
    /// Bytes each connection has brought, and when the first came.
    got: Vec<(usize, Option<Instant>)>,
}

impl Rig {
    fn new(weather: Weather) -> Self {
        let line = |up| Line::new(up, 10_000_000, Duration::from_millis(25));
        let lines = std::iter::once(SLOW).chain([10_000_000; 3]).map(line).collect();
        let net = Net::new(lines, weather, seeded(5), Trace::new(None), None);
        Self { net, open: Vec::new(), got: Vec::new() }
    }

    /// A fast host connects to the slow one.
    fn dial(&mut self, from: u32) -> usize {
        let key = self.net.dial(from, None, addr_of(0));
        self.net.accepted(key, None);
        self.open.push(key);
        self.got.push((0, None));
        self.open.len() - 1
    }

    /// The slow host writes as much as it can, be it megabytes.
    fn fill(&mut self, i: usize) {
        while self.net.write(self.open[i], 1, &[7; 4096]).is_ok() {}
    }

    /// Time passes; the slow host keeps writing to `full`.
    fn run(&mut self, until: Instant, full: &[usize]) {
        let mut buf = [0; 65536];
        while let Some((at, event)) = self.net.next() {
            self.net.now = at;
            match event {
                Event::Arrive { wire, from, len } => drop(self.net.arrive(wire, from, len)),
                Event::End { wire, from, reset } => drop(self.net.ended(wire, from, reset)),
                _ => {}
            }
            for i in 0..self.open.len() {
                while let Ok(n @ 1..) = self.net.read(self.open[i], 0, &mut buf) {
                    self.got[i].0 += n;
                    self.got[i].1.get_or_insert(at);
                }
            }
            full.iter().for_each(|i| self.fill(*i));
            if at >= until {
                break;
            }
        }
    }
}

#[test]
fn a_few_bytes_do_not_wait_behind_all_that_others_are_sent() {
    let mut rig = Rig::new(Weather::default());
    let full = [rig.dial(1), rig.dial(2)];
    full.iter().for_each(|i| rig.fill(*i));
    rig.run(Instant::from_secs(60), &full);
    let late = rig.dial(3);
    rig.net.write(rig.open[late], 1, &[19; 68]).expect("an empty pipe takes a handshake");
    let begun = rig.net.now;
    rig.run(begun + Duration::from_secs(60), &full);
    let first = rig.got[late].1.expect("the handshake arrives");
    assert!(first - begun < Duration::from_millis(1500), "after {:?}", first - begun);
    let (a, b) = (rig.got[0].0 as f64, rig.got[1].0 as f64);
    assert!(a + b > 0.9 * SLOW as f64 * 120.0, "the line is in use all the time: {a} and {b} bytes");
    assert!((a - b).abs() < 0.1 * a, "and shared: {a} and {b} bytes");
}

#[test]
fn what_is_written_arrives_whole_before_the_end() {
    for (loss, jitter) in [(0, 0), (300, 150)] {
        let mut rig = Rig::new(Weather { loss, jitter: Duration::from_millis(jitter), ..Weather::default() });
        let i = rig.dial(1);
        let mut wrote = 0;
        while let Ok(n) = rig.net.write(rig.open[i], 1, &[7; 4096]) {
            wrote += n;
        }
        assert!(wrote > 5 * SLOW as usize, "the pipe takes more than is in flight: {wrote}");
        rig.net.close(rig.open[i], 1);
        rig.run(Instant::from_secs(600), &[]);
        assert_eq!(rig.got[i].0, wrote);
        assert!(matches!(rig.net.read(rig.open[i], 0, &mut [0; 9]), Ok(0)), "then the end");
    }
}
