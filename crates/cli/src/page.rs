//! Lists come in pages; a command shows them as one, up to a limit.

use clap::Args;
use tonic::Status;

use crate::terminal::say;

const PAGE_SIZE_MAX: u32 = 1000;

/// Upper bound of the rows of a list.
#[derive(Args, Debug)]
pub struct Limit {
    /// Show at most so many
    #[arg(long, value_name = "COUNT", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,
}

impl Limit {
    /// Asks `fetch` (page size, page token) for pages until the end or the limit, and says if there is more.
    pub(crate) async fn collect<T>(
        &self,
        mut fetch: impl AsyncFnMut(u32, String) -> Result<(Vec<T>, String), Status>,
    ) -> Result<Vec<T>, Status> {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let mut all = Vec::new();
        let mut token = String::new();
        loop {
            let missing = u32::try_from(limit - all.len()).unwrap_or(PAGE_SIZE_MAX);
            let (page, next) = fetch(missing.min(PAGE_SIZE_MAX), token).await?;
            all.extend(page.into_iter().take(limit - all.len()));
            if next.is_empty() {
                return Ok(all);
            }
            if all.len() >= limit {
                say(&format!("there are more: showing the first {limit}; raise --limit to see them"));
                return Ok(all);
            }
            token = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server with `count` numbers, two per page.
    async fn page(count: u32, size: u32, token: String) -> Result<(Vec<u32>, String), Status> {
        let from: u32 = token.parse().unwrap_or(0);
        let to = count.min(from + size.min(2));
        Ok(((from..to).collect(), if to < count { to.to_string() } else { String::new() }))
    }

    #[tokio::test]
    async fn a_list_is_whole_or_ends_at_its_limit() {
        for (count, limit, expected) in [(0, 10, 0), (5, 10, 5), (5, 3, 3), (4, 4, 4)] {
            let all =
                Limit { limit }.collect(async |size, token| page(count, size, token).await).await.unwrap();
            assert_eq!(all, (0..expected).collect::<Vec<_>>(), "{count} with limit {limit}");
        }
    }
}
