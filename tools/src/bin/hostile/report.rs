//! What came of it: a line while it runs, a line of JSON to keep, a table of what was kept.

use crate::clients::Client;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

/// Above the lines.
pub(crate) const HEAD: &str = "client        nofile  attack                      base KiB    peak +   after +   honest s   after s  cpu %  conn/s";

/// What one attack did to one client.
pub(crate) struct Outcome {
    pub(crate) client: String,
    pub(crate) nofile: u64,
    /// The attack, by number and in words.
    pub(crate) name: String,
    pub(crate) what: String,
    /// btmio's goals were met.
    pub(crate) good: bool,
    /// Memory before, in KiB; how much more at worst; how much more in the end.
    pub(crate) base: u64,
    pub(crate) peak: u64,
    pub(crate) back: u64,
    /// Seconds to an honest peer's block at worst during the attack, and after it.
    pub(crate) honest: Option<f64>,
    pub(crate) after: Option<f64>,
    /// Percent of one core.
    pub(crate) cpu: f64,
    /// Connections a second that attackers began.
    pub(crate) rate: f64,
    /// What there is to tell besides, or instead.
    pub(crate) text: Option<String>,
}

impl Outcome {
    /// One without figures.
    pub(crate) fn told(client: Client, nofile: u64, name: &str, what: &str, text: String) -> Self {
        Self {
            client: client.name().into(),
            nofile,
            name: name.into(),
            what: what.into(),
            good: true,
            base: 0,
            peak: 0,
            back: 0,
            honest: None,
            after: None,
            cpu: 0.0,
            rate: 0.0,
            text: Some(text),
        }
    }

    /// It could not even be measured.
    pub(crate) fn failed(client: Client, nofile: u64, name: &str, what: &str, why: String) -> Self {
        let why = format!("FAILED: {}", why.trim_end());
        Self { good: false, ..Self::told(client, nofile, name, what, why) }
    }

    pub(crate) fn line(&self) -> String {
        let attack = format!("{} {}", self.name, self.what);
        let mut out = format!("{:<13} {:>6}  {attack:<26}", self.client, self.nofile);
        if self.base > 0 {
            let Self { base, peak, back, cpu, rate, .. } = self;
            let (honest, after) = (seconds(self.honest), seconds(self.after));
            let _ = write!(out, " {base:>9} {peak:>9} {back:>9} {honest:>10} {after:>9} {cpu:>6.0} {rate:>7.0}");
        }
        if let Some(text) = &self.text {
            let _ = write!(out, " {text}");
        }
        if !self.good {
            out.push_str("  !");
        }
        out
    }

    /// Appends it to a file.
    pub(crate) fn record(&self, file: &Path) -> Result<(), String> {
        let line = json!({
            "client": self.client, "nofile": self.nofile, "attack": self.name, "what": self.what, "good": self.good,
            "base": self.base, "peak": self.peak, "back": self.back, "honest": self.honest, "after": self.after,
            "cpu": self.cpu, "rate": self.rate, "text": self.text,
        });
        let open = std::fs::OpenOptions::new().create(true).append(true).open(file);
        open.and_then(|mut f| writeln!(f, "{line}")).map_err(|e| format!("{}: {e}", file.display()))
    }
}

fn seconds(t: Option<f64>) -> String {
    t.map_or("never".into(), |t| format!("{t:.2}"))
}

/// One cell.
fn cell(v: &Value) -> String {
    let kib = |name: &str| format!("{:.1}", v[name].as_f64().unwrap_or(0.0) / 1024.0);
    let first = v["text"].as_str().and_then(|t| t.lines().next()).map(|t| t.replace('|', "/"));
    let mut out = match v["base"].as_u64() {
        Some(base) if base > 0 => format!(
            "+{} → +{} MiB; {} / {} s; {:.0} %{}",
            kib("peak"),
            kib("back"),
            seconds(v["honest"].as_f64()),
            seconds(v["after"].as_f64()),
            v["cpu"].as_f64().unwrap_or(0.0),
            first.map(|t| format!("; {t}")).unwrap_or_default(),
        ),
        _ => first.unwrap_or_default(),
    };
    if v["good"] != true {
        out = format!("**{out}**");
    }
    out
}

/// What a file has, as Markdown: a row for each attack and limit, a column for each client; the last word counts.
pub(crate) fn table(file: &Path) -> Result<String, String> {
    let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
    let text = std::fs::read_to_string(file).map_err(|e| failed(&e))?;
    let all: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>().map_err(|e| failed(&e))?;
    let unique = |of: &dyn Fn(&Value) -> String| {
        let mut out: Vec<String> = Vec::new();
        for key in all.iter().map(of) {
            if !out.contains(&key) {
                out.push(key);
            }
        }
        out
    };
    let client = |v: &Value| v["client"].as_str().unwrap_or_default().to_owned();
    let row = |v: &Value| {
        let s = |name: &str| v[name].as_str().unwrap_or_default();
        format!("{} {}, {} descriptors", s("attack"), s("what"), v["nofile"])
    };
    let (clients, mut rows) = (unique(&client), unique(&row));
    rows.sort();
    let mut out = String::from(
        "Memory above its baseline at worst and up to ten seconds later; an honest peer's wait for its first block \
         during the attack at worst, and after it; processor time. Bold misses what btmio is held to.\n\n",
    );
    let _ = writeln!(out, "| attack | {} |", clients.join(" | "));
    let _ = writeln!(out, "|---|{}", "---|".repeat(clients.len()));
    for r in rows {
        let of = |c: &String| all.iter().rev().find(|v| client(v) == *c && row(v) == r).map(cell).unwrap_or_default();
        let cells: Vec<String> = clients.iter().map(of).collect();
        let _ = writeln!(out, "| {r} | {} |", cells.join(" | "));
    }
    Ok(out)
}
