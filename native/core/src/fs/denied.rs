//! What a restore was not permitted to do: counted, with a few examples, and told once in the end.

use std::collections::BTreeMap;
use std::fmt;

use rustix::io::Errno;

use super::display_path;

/// Paths shown for each category.
const EXAMPLES_MAX: usize = 3;

/// What was not permitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Category {
    /// Owner or group.
    Owner,
    /// Permission bits, or setuid, setgid and sticky.
    Mode,
    /// Access control lists.
    Acl,
    /// Extended attributes `user.*`.
    XattrUser,
    /// Extended attributes `trusted.*`.
    XattrTrusted,
    /// Extended attributes `security.*`: labels and file capabilities.
    XattrSecurity,
    /// Extended attributes of other namespaces.
    XattrOther,
    /// Modification times.
    Times,
    /// File flags.
    Flags,
    /// Device nodes.
    Device,
}

impl Category {
    /// The category of the extended attribute `name`.
    pub fn of_xattr(name: &[u8]) -> Self {
        if name.starts_with(b"system.posix_acl_") {
            Self::Acl
        } else if name.starts_with(b"user.") {
            Self::XattrUser
        } else if name.starts_with(b"trusted.") {
            Self::XattrTrusted
        } else if name.starts_with(b"security.") {
            Self::XattrSecurity
        } else {
            Self::XattrOther
        }
    }

    /// A stable word for reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Mode => "mode",
            Self::Acl => "acl",
            Self::XattrUser => "xattr-user",
            Self::XattrTrusted => "xattr-trusted",
            Self::XattrSecurity => "xattr-security",
            Self::XattrOther => "xattr-other",
            Self::Times => "times",
            Self::Flags => "flags",
            Self::Device => "device",
        }
    }
}

/// How often something of one category was not permitted.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Entries concerned; one with three refused attributes of one namespace counts three times.
    pub count: u64,
    /// The first few of them, for people.
    pub examples: Vec<String>,
    /// The operating system's last answer.
    pub os_error: Option<i32>,
}

/// All that was not permitted. Each worker keeps its own; [`Denied::merge`] adds them up.
#[derive(Clone, Debug, Default)]
pub struct Denied {
    tallies: BTreeMap<Category, Tally>,
}

impl Denied {
    /// Counts one refusal. `errno` is `None` where the kernel quietly did something else.
    pub fn add(&mut self, category: Category, path: &[u8], errno: Option<Errno>) {
        let tally = self.tallies.entry(category).or_default();
        tally.count += 1;
        tally.os_error = errno.map(Errno::raw_os_error).or(tally.os_error);
        if tally.examples.len() < EXAMPLES_MAX {
            tally.examples.push(display_path(path));
        }
    }

    /// Adds what another worker counted.
    pub fn merge(&mut self, other: Self) {
        for (category, tally) in other.tallies {
            let mine = self.tallies.entry(category).or_default();
            mine.count += tally.count;
            mine.os_error = tally.os_error.or(mine.os_error);
            let room = EXAMPLES_MAX.saturating_sub(mine.examples.len());
            mine.examples.extend(tally.examples.into_iter().take(room));
        }
    }

    /// Whether everything was permitted.
    pub fn is_empty(&self) -> bool {
        self.tallies.is_empty()
    }

    /// Number of refusals of one category.
    pub fn count(&self, category: Category) -> u64 {
        self.tallies.get(&category).map_or(0, |tally| tally.count)
    }

    /// The refusals by category.
    pub fn iter(&self) -> impl Iterator<Item = (Category, &Tally)> {
        self.tallies.iter().map(|(&category, tally)| (category, tally))
    }
}

impl fmt::Display for Denied {
    /// One line a category, without a newline at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (category, tally)) in self.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            let examples = tally.examples.join(", ");
            write!(f, "{end}{}: {} not restored ({examples}", category.as_str(), tally.count)?;
            f.write_str(if tally.count > tally.examples.len() as u64 { ", ...)" } else { ")" })?;
            if let Some(code) = tally.os_error {
                write!(f, ": {}", std::io::Error::from_raw_os_error(code))?;
            }
        }
        Ok(())
    }
}
