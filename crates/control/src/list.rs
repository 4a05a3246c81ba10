//! Lists in pages: a page begins after the last key of the one before, so that changes in between lose nothing.

use std::ops::Bound;

/// Part of a list to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListRequest<K> {
    /// Last key of the page before; none begins the list.
    pub after: Option<K>,
    /// Most items; at least one.
    pub limit: usize,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed<T, K> {
    pub items: Vec<T>,
    /// Last key of this page if items follow it.
    pub next: Option<K>,
}

impl<K> ListRequest<K> {
    pub(crate) fn start(&self) -> Bound<&K> {
        self.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded)
    }

    /// Takes a page of `items`, which begin after `after`.
    pub(crate) fn page<T>(&self, items: impl Iterator<Item = (K, T)>) -> Listed<T, K> {
        let mut items = items.peekable();
        let mut page = Vec::new();
        while let Some((key, item)) = items.next() {
            page.push(item);
            if page.len() == self.limit {
                let next = items.peek().is_some().then_some(key);
                return Listed { items: page, next };
            }
        }
        Listed { items: page, next: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(limit: usize) -> Vec<Vec<u32>> {
        let (mut after, mut pages) = (None, Vec::new());
        loop {
            let request = ListRequest { after, limit };
            let numbers = (0..7).filter(|number| request.after.is_none_or(|after| *number > after));
            let Listed { items, next } = request.page(numbers.map(|number| (number, number)));
            pages.push(items);
            after = next;
            if after.is_none() {
                return pages;
            }
        }
    }

    #[test]
    fn every_item_is_on_one_page_and_no_page_is_empty() {
        assert_eq!(pages(3), [vec![0, 1, 2], vec![3, 4, 5], vec![6]]);
        assert_eq!(pages(7), [vec![0, 1, 2, 3, 4, 5, 6]]);
        assert_eq!(pages(50), [vec![0, 1, 2, 3, 4, 5, 6]]);
    }
}
