//! Page tokens: each is good for the list that gave it, with the same filter.

use std::{fmt::Display, str::FromStr};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use fanfare_control::ListRequest;

use crate::problem::{Condition, FieldProblem, Problem};

const VERSION: &str = "1";
const SIZE_DEFAULT: u32 = 50;
const SIZE_MAX: u32 = 1000;

/// A list, named with its filter.
#[derive(Debug)]
pub(crate) struct PagedList {
    name: String,
}

impl PagedList {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// A list of which a caller sees only the items that belong to `filter`.
    pub(crate) fn filtered(name: &str, filter: &str) -> Self {
        Self { name: format!("{name}/{filter}") }
    }

    /// The page of `size` items that `token` stands for; 0 items are the default, too many are the most.
    ///
    /// # Errors
    /// If the token is not this list's.
    pub(crate) fn request<K: FromStr>(&self, size: u32, token: &str) -> Result<ListRequest<K>, Problem> {
        let size = if size == 0 { SIZE_DEFAULT } else { size.min(SIZE_MAX) };
        let limit = usize::try_from(size).expect("u32 fits in usize on this platform");
        let after = match token {
            "" => None,
            token => Some(self.key(token).ok_or_else(token_invalid)?),
        };
        Ok(ListRequest { after, limit })
    }

    /// Token of the page behind `last`; empty if there is none.
    pub(crate) fn token(&self, last: Option<impl Display>) -> String {
        last.map(|last| BASE64_URL_SAFE_NO_PAD.encode(format!("{VERSION}\0{}\0{last}", self.name)))
            .unwrap_or_default()
    }

    fn key<K: FromStr>(&self, token: &str) -> Option<K> {
        let token = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
        let own = token.strip_prefix(VERSION)?.strip_prefix('\0')?.strip_prefix(&self.name)?;
        own.strip_prefix('\0')?.parse().ok()
    }
}

fn token_invalid() -> Problem {
    let description =
        "is not a token of this list: take it from the last response, or leave it empty to begin again";
    Problem::new(Condition::PageTokenInvalid, format!("page_token: {description}"))
        .with_fields(vec![FieldProblem::new("page_token", description)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(list: &PagedList, token: &str) -> Result<Option<u32>, Problem> {
        list.request::<u32>(1, token).map(|request| request.after)
    }

    #[test]
    fn sizes_have_a_default_and_a_maximum() {
        let numbers = PagedList::new("numbers");
        for (size, limit) in [(0, 50), (1, 1), (1000, 1000), (5000, 1000)] {
            assert_eq!(numbers.request::<u32>(size, "").unwrap(), ListRequest { after: None, limit });
        }
    }

    #[test]
    fn a_token_of_another_list_filter_or_version_is_refused() {
        let numbers = PagedList::new("numbers");
        let token = numbers.token(Some(3));
        assert_eq!(after(&numbers, &token).unwrap(), Some(3));
        assert_eq!(numbers.token(None::<u32>), "");
        let other_version = BASE64_URL_SAFE_NO_PAD.encode("2\0numbers\x003");
        let filtered = PagedList::filtered("numbers", "even");
        for (list, token) in [
            (PagedList::new("letters"), token.as_str()),
            (PagedList::filtered("numbers", "odd"), &filtered.token(Some(3))),
            (PagedList::new("numbers"), &filtered.token(Some(3))),
            (PagedList::new("numbers"), "x"),
            (PagedList::new("numbers"), "!"),
            (PagedList::new("numbers"), &other_version),
        ] {
            let problem = after(&list, token).unwrap_err();
            assert_eq!(problem.condition(), &Condition::PageTokenInvalid, "{list:?} {token}");
        }
    }
}
