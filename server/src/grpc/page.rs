//! Page tokens: where a list goes on, bound to the filter under which it began.
//!
//! A token is hex of: a version, the id of the last entry, and eight bytes of a digest of the filter. It is no secret and no
//! right; the digest only keeps a caller from mixing two lists up. Called by the services that list.

use dbkeep_engine::model::RunId;
use prost::Message;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::validate::Check;

/// First byte of every token of this layout.
const VERSION: u8 = 1;
/// Bytes of the filter's digest that a token holds.
const DIGEST_BYTES: usize = 8;

/// Which list a token belongs to.
pub(super) struct Pages {
    digest: [u8; DIGEST_BYTES],
}

impl Pages {
    /// The pages of one list: its name, and its filter as the request carries it.
    pub(super) fn of(list: &str, filter: &impl Message) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(list.len().to_le_bytes());
        hasher.update(list);
        hasher.update(filter.encode_to_vec());
        let mut digest = [0; DIGEST_BYTES];
        digest.copy_from_slice(&hasher.finalize()[..DIGEST_BYTES]);
        Self { digest }
    }

    /// The entry after which the page begins; `None` for the first page, or where the token is refused.
    pub(super) fn after(&self, token: &str, check: &mut Check) -> Option<RunId> {
        if token.is_empty() {
            return None;
        }
        let id = self.read(token);
        if id.is_none() {
            check.refuse(
                "page_token",
                "is no token of this list; expected next_page_token of the page before, under the same filter",
            );
        }
        id
    }

    fn read(&self, token: &str) -> Option<RunId> {
        let bytes = hex::decode(token).ok()?;
        let (version, rest) = bytes.split_first()?;
        let (id, digest) = rest.split_at_checked(16)?;
        if *version != VERSION || digest != self.digest {
            return None;
        }
        Uuid::from_slice(id).ok().map(RunId)
    }

    /// Cuts what was fetched (one more than a page holds) to a page, and makes the token of the next one.
    pub(super) fn cut<T>(&self, entries: &mut Vec<T>, size: u32, id: impl Fn(&T) -> RunId) -> String {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if entries.len() <= size {
            return String::new();
        }
        entries.truncate(size);
        entries.last().map_or_else(String::new, |last| self.token(id(last)))
    }

    fn token(&self, last: RunId) -> String {
        hex::encode([&[VERSION], last.0.as_bytes().as_slice(), &self.digest].concat())
    }
}

#[cfg(test)]
mod tests {
    use dbkeep_proto::v1::RunFilter;

    use super::*;

    #[test]
    fn a_token_is_taken_only_by_its_own_list() {
        let filter = RunFilter {
            target: "a".into(),
            ..RunFilter::default()
        };
        let pages = Pages::of("runs", &filter);
        let ids = [RunId::new(), RunId::new(), RunId::new()];
        let mut entries = ids.to_vec();
        let token = pages.cut(&mut entries, 2, |id| *id);
        assert_eq!(entries, ids[..2]);
        assert_eq!(pages.after(&token, &mut Check::default()), Some(ids[1]));
        for other in [Pages::of("runs", &RunFilter::default()), Pages::of("backups", &filter)] {
            assert_eq!(other.after(&token, &mut Check::default()), None);
        }
        for malformed in ["x", "00", &token[2..], &format!("{token}00"), &token.replacen("01", "02", 1)] {
            let mut check = Check::default();
            assert_eq!(pages.after(malformed, &mut check), None);
            assert!(check.finish().is_err(), "{malformed}");
        }
    }

    #[test]
    fn the_last_page_has_no_token() {
        let pages = Pages::of("runs", &RunFilter::default());
        assert_eq!(pages.cut(&mut vec![RunId::new()], 1, |id| *id), "");
    }
}
