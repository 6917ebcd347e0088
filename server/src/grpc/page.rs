//! Page tokens: where a list goes on, bound to the filter under which it began.
//!
//! A token is hex of: a version, the id of the last entry, and eight bytes of a digest of the filter. It is no secret and no
//! right; the digest only keeps a caller from mixing two lists up. Called by the services that list.

use dbkeep_engine::model::RunId;
use prost::Message;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{status::Fault, validate::Check};

/// First byte of every token of this layout.
const VERSION: u8 = 1;
/// Bytes of the filter's digest that a token holds.
const DIGEST_BYTES: usize = 8;

/// A page of what a caller sees, and one entry more where there is more. `fetch` lists after an entry, at most so many; what is not
/// `visible` is passed over.
pub(super) async fn seen<T, I: Clone, F: Future<Output = Result<Vec<T>, Fault>>>(
    size: u32,
    mut after: Option<I>,
    mut fetch: impl FnMut(Option<I>, u32) -> F,
    id: impl Fn(&T) -> I,
    visible: impl Fn(&T) -> bool,
) -> Result<Vec<T>, Fault> {
    let (limit, wanted) = (size + 1, usize::try_from(size).unwrap_or(usize::MAX));
    let mut page = Vec::new();
    loop {
        let found = fetch(after.clone(), limit).await?;
        let is_last = found.len() <= wanted;
        after = found.last().map(&id).or(after);
        page.extend(found.into_iter().filter(&visible));
        if is_last || page.len() > wanted {
            return Ok(page);
        }
    }
}

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
    use dbkeep_engine::access::Scope;
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

    #[tokio::test]
    async fn a_page_is_full_of_what_the_caller_sees() {
        let scope = Scope::Targets(["a".to_owned()].into());
        let all: Vec<(u32, &str)> = (0..100)
            .map(|number| (number, if number % 10 == 3 { "a" } else { "b" }))
            .collect();
        let fetch = |after: Option<u32>, limit: u32| {
            let from = after.map_or(0, |after| after + 1);
            let found = all.iter().filter(|(number, _)| *number >= from).take(limit as usize);
            std::future::ready(Ok(found.copied().collect::<Vec<_>>()))
        };
        let page = async |scope: &Scope, after| {
            seen(4, after, fetch, |entry| entry.0, |entry| scope.covers(entry.1))
                .await
                .expect("a page")
        };
        let first = page(&scope, None).await;
        assert_eq!(first.iter().map(|entry| entry.0).collect::<Vec<_>>(), [3, 13, 23, 33, 43]);
        let last = page(&scope, Some(73)).await;
        assert_eq!(last.iter().map(|entry| entry.0).collect::<Vec<_>>(), [83, 93]);
        assert_eq!(page(&Scope::All, Some(97)).await.len(), 2);
        assert_eq!(page(&Scope::Targets(["c".to_owned()].into()), None).await, []);
    }

    #[test]
    fn the_last_page_has_no_token() {
        let pages = Pages::of("runs", &RunFilter::default());
        assert_eq!(pages.cut(&mut vec![RunId::new()], 1, |id| *id), "");
    }
}
