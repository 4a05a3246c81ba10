//! Pages of lists: a page begins after the last key of the one before, so that changes in between lose nothing.

use std::{fmt::Display, str::FromStr};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use tonic::Status;

use crate::status::page_token_invalid;

const VERSION: &str = "1";
const SIZE_DEFAULT: u32 = 50;
const SIZE_MAX: u32 = 1000;

/// What a list request asked for.
#[derive(Debug)]
pub(crate) struct Page<K> {
    /// Of what: a token is good for the list that gave it, and for the same arguments.
    list: String,
    pub(crate) after: Option<K>,
    pub(crate) size: usize,
}

impl<K: FromStr + Display> Page<K> {
    pub(crate) fn parse(list: impl Into<String>, size: u32, token: &str) -> Result<Self, Status> {
        let list = list.into();
        let size = if size == 0 { SIZE_DEFAULT } else { size.min(SIZE_MAX) };
        let size = usize::try_from(size).expect("u32 fits in usize on this platform");
        let after = match token {
            "" => None,
            token => Some(key(&list, token).ok_or_else(page_token_invalid)?),
        };
        Ok(Self { list, after, size })
    }

    /// Takes a page of `items`, which begin after `after`, and the token of the next.
    pub(crate) fn take<T>(&self, items: impl Iterator<Item = (K, T)>) -> (Vec<T>, String) {
        let mut items = items.peekable();
        let mut taken = Vec::new();
        while let Some((key, item)) = items.next() {
            taken.push(item);
            if taken.len() == self.size {
                let more = items.peek().is_some();
                return (taken, if more { self.token(&key) } else { String::new() });
            }
        }
        (taken, String::new())
    }

    pub(crate) fn token(&self, last: &K) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(format!("{VERSION}\0{}\0{last}", self.list))
    }
}

fn key<K: FromStr>(list: &str, token: &str) -> Option<K> {
    let token = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let key = token.strip_prefix(VERSION)?.strip_prefix('\0')?.strip_prefix(list)?.strip_prefix('\0')?;
    key.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(size: u32) -> Vec<Vec<u32>> {
        let (mut token, mut pages) = (String::new(), Vec::new());
        loop {
            let page = Page::<u32>::parse("numbers", size, &token).unwrap();
            let (items, next) =
                page.take((0..7).filter(|n| page.after.is_none_or(|after| *n > after)).map(|n| (n, n)));
            pages.push(items);
            if next.is_empty() {
                return pages;
            }
            token = next;
        }
    }

    #[test]
    fn every_item_is_on_one_page_and_no_page_is_empty() {
        assert_eq!(pages(3), [vec![0, 1, 2], vec![3, 4, 5], vec![6]]);
        assert_eq!(pages(7), [vec![0, 1, 2, 3, 4, 5, 6]]);
        assert_eq!(pages(0), [vec![0, 1, 2, 3, 4, 5, 6]]);
        assert_eq!(Page::<u32>::parse("numbers", 5000, "").unwrap().size, 1000);
    }

    #[test]
    fn a_token_of_another_list_or_another_make_is_refused() {
        let token = Page::<u32>::parse("numbers", 1, "").unwrap().token(&3);
        assert_eq!(Page::<u32>::parse("numbers", 1, &token).unwrap().after, Some(3));
        let other_version = BASE64_URL_SAFE_NO_PAD.encode("2\0numbers\x003");
        for (list, token) in
            [("letters", token.as_str()), ("numbers", "x"), ("numbers", "!"), ("numbers", &other_version)]
        {
            let status = Page::<u32>::parse(list, 1, token).unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument, "{list} {token}");
        }
    }
}
