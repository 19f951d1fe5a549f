//! Our own public addresses, as others see them: trackers (BEP 24), and whoever else will tell.
//!
//! Anybody can say anything, so it is a vote: each source has one voice in each family, the address
//! with most voices wins, and among equals the one heard last. Addresses that are not public cannot be
//! what is asked for and are not counted.
//!
//! [`External::get`] is good enough to be shown. [`External::sure`] is for what costs something to change, as a
//! node id does (BEP 42): it wants [`SURE`] voices and two thirds of all.
//!
//! [BEP 24](https://www.bittorrent.org/beps/bep_0024.html)

use std::collections::VecDeque;
use std::net::IpAddr;

use super::http::Reach;

/// Voices kept in each family.
const VOICES: usize = 32;
/// Voices that make us sure.
const SURE: usize = 5;

/// Who says what our addresses are.
#[derive(Debug, Default)]
pub(crate) struct External {
    /// Who says what, the latest last.
    v4: VecDeque<(IpAddr, IpAddr)>,
    v6: VecDeque<(IpAddr, IpAddr)>,
}

impl External {
    /// `source` says that our address is `ip`.
    pub(crate) fn vote(&mut self, source: IpAddr, ip: IpAddr) {
        let ip = ip.to_canonical();
        if Reach::of(ip) != Reach::Public {
            return;
        }
        let voices = if ip.is_ipv6() { &mut self.v6 } else { &mut self.v4 };
        voices.retain(|(s, _)| *s != source);
        if voices.len() >= VOICES {
            voices.pop_front();
        }
        voices.push_back((source, ip));
    }

    /// The address in one family that most name.
    pub(crate) fn get(&self, v6: bool) -> Option<IpAddr> {
        let voices = if v6 { &self.v6 } else { &self.v4 };
        let count = |ip: &IpAddr| voices.iter().filter(|(_, i)| i == ip).count();
        // The last of several maxima is taken.
        voices.iter().map(|(_, ip)| *ip).max_by_key(count)
    }

    /// The address in one family that nearly all name, if they are enough.
    pub(crate) fn sure(&self, v6: bool) -> Option<IpAddr> {
        let voices = if v6 { &self.v6 } else { &self.v4 };
        let ip = self.get(v6)?;
        let count = voices.iter().filter(|(_, i)| *i == ip).count();
        (count >= SURE && 3 * count >= 2 * voices.len()).then_some(ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_voices_win_and_then_the_latest() {
        let mut e = External::default();
        let mut says = |source: &str, ip: &str| {
            e.vote(source.parse().unwrap(), ip.parse().unwrap());
            (e.get(false).map(|i| i.to_string()), e.get(true).map(|i| i.to_string()))
        };
        let v4 = |ip: &str| (Some(ip.to_owned()), None);
        assert_eq!(says("8.8.8.1", "10.0.0.1"), (None, None), "not a public one");
        assert_eq!(says("8.8.8.1", "1.2.3.4"), v4("1.2.3.4"));
        assert_eq!(says("8.8.8.2", "1.2.3.5"), v4("1.2.3.5"), "the latest");
        assert_eq!(says("8.8.8.3", "::ffff:1.2.3.4"), v4("1.2.3.4"), "two of three");
        assert_eq!(says("8.8.8.2", "1.2.3.6"), v4("1.2.3.4"));
        assert_eq!(says("8.8.8.2", "2001:4860::1"), (Some("1.2.3.4".into()), Some("2001:4860::1".into())));
        for i in 0..100 {
            says(&format!("9.0.0.{i}"), &format!("7.0.0.{i}"));
        }
        assert_eq!(e.v4.len(), VOICES);
        assert_eq!(e.sure(false), None, "they do not agree");
        for i in 0..22 {
            e.vote(format!("10.0.0.{i}").parse().unwrap(), "7.7.7.7".parse().unwrap());
            let sure = (i >= 21).then(|| "7.7.7.7".parse().unwrap());
            assert_eq!(e.sure(false), sure, "{i}");
        }
    }
}
