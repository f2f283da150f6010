//! What a guest says about itself: over UDP and on its console.

use std::collections::HashMap;
use std::str::FromStr;

use anyhow::{Context, bail};

/// The agent's answer to every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Made anew by each boot.
    pub boot: String,
    /// Heartbeats since the boot, ten a second while the guest runs.
    pub heartbeats: u64,
    /// How long the guest says it has run, in ms. It does not count the time in which it stood still.
    pub uptime_ms: u64,
    /// Memory that is to be rewritten, in MiB/s.
    pub rate_mib_s: u64,
    /// The part of the memory in which that happens, in MiB.
    pub working_set_mib: u64,
    /// Disk blocks that are to be written per second.
    pub disk_rate: u64,
    /// Pages of 4 KiB written since the boot.
    pub pages_written: u64,
    /// Pages checked since the boot: each before it was rewritten, and all by each `verify`.
    pub pages_checked: u64,
    /// Pages that were not what they had to be. Anything but 0 is lost or damaged memory.
    pub page_errors: u64,
    /// Blocks of 4 KiB written since the boot.
    pub blocks_written: u64,
    /// Blocks read back and checked since the boot.
    pub blocks_checked: u64,
    /// Blocks that were not what they had to be, and writes that failed.
    pub block_errors: u64,
    /// Pages that a `verify` has just checked; 0 in other answers.
    pub verified_pages: u64,
    /// Blocks that a `verify` has just checked; 0 in other answers.
    pub verified_blocks: u64,
    /// The version of the blocks on its volume; 0 in answers to other requests.
    pub volume: u64,
}

impl Stat {
    /// Reads `key=value` words.
    ///
    /// # Errors
    /// When a key is missing or not a number, or the agent has answered `error=REASON`.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let values: HashMap<&str, &str> =
            text.split_whitespace().filter_map(|word| word.split_once('=')).collect();
        if values.contains_key("error") {
            bail!("the guest refused: {text}");
        }
        let number = |key| read::<u64>(&values, key).with_context(|| text.to_owned());
        let number_or_0 = |key| if values.contains_key(key) { number(key) } else { Ok(0) };
        Ok(Self {
            boot: read(&values, "boot")?,
            heartbeats: number("n")?,
            uptime_ms: number("uptime_ms")?,
            rate_mib_s: number("rate")?,
            working_set_mib: number("wset")?,
            disk_rate: number("disk")?,
            pages_written: number("pages_written")?,
            pages_checked: number("pages_checked")?,
            page_errors: number("page_errors")?,
            blocks_written: number("blocks_written")?,
            blocks_checked: number("blocks_checked")?,
            block_errors: number("block_errors")?,
            verified_pages: number_or_0("verified_pages")?,
            verified_blocks: number_or_0("verified_blocks")?,
            volume: number_or_0("volume")?,
        })
    }

    /// Whether all that was checked since the boot was what it had to be.
    pub fn is_intact(&self) -> bool {
        self.page_errors == 0 && self.block_errors == 0
    }
}

/// A line of the guest's console: `HB boot=<id> n=<counter>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Made anew by each boot.
    pub boot: String,
    /// Grows by one with each line.
    pub n: u64,
}

impl Heartbeat {
    /// Reads one line; None when it is something else, or was cut off.
    pub fn parse(line: &str) -> Option<Self> {
        let (boot, n) = line.trim().strip_prefix("HB boot=")?.split_once(" n=")?;
        Some(Self { boot: boot.to_owned(), n: n.parse().ok()? })
    }

    /// The last whole one in a console's log.
    pub fn last_of(console: &str) -> Option<Self> {
        // What follows the last line break may still be growing.
        let whole = &console[..console.rfind('\n')?];
        whole.lines().rev().find_map(Self::parse)
    }
}

fn read<T: FromStr>(values: &HashMap<&str, &str>, key: &str) -> anyhow::Result<T> {
    let value = values.get(key).with_context(|| format!("{key} is missing"))?;
    value.parse().ok().with_context(|| format!("{key}={value} can't be read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "boot=7f-1 uptime_ms=5120 n=42 rate=10 wset=8 disk=3 pages_written=1 \
        pages_checked=2 page_errors=0 blocks_written=4 blocks_checked=5 block_errors=6";

    #[test]
    fn an_answer_is_read() {
        let stat = Stat::parse(ANSWER).unwrap();
        assert_eq!((stat.boot.as_str(), stat.heartbeats, stat.verified_pages), ("7f-1", 42, 0));
        assert!(!stat.is_intact());
        let verified =
            Stat::parse(&format!("{ANSWER} verified_pages=9 verified_blocks=8")).unwrap();
        assert_eq!((verified.verified_pages, verified.verified_blocks), (9, 8));
    }

    #[test]
    fn a_refusal_and_half_an_answer_are_errors() {
        assert!(Stat::parse("error=no-disk").unwrap_err().to_string().contains("no-disk"));
        assert!(Stat::parse("boot=7f-1 n=42").is_err());
    }

    #[test]
    fn the_last_whole_heartbeat_counts() {
        let console = "x\r\nHB boot=a n=1\r\nHB boot=a n=2\r\nnoise\r\nHB boot=a n=3";
        assert_eq!(Heartbeat::last_of(console), Some(Heartbeat { boot: "a".into(), n: 2 }));
        assert_eq!(Heartbeat::last_of("nothing"), None);
    }
}
