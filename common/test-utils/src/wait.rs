//! Waiting for a condition with a deadline, instead of sleeping and hoping.

use std::time::Duration;

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// Polls `probe` until it gives a value, and returns it.
///
/// # Panics
/// When `within` has passed first; the message names `what` was waited for.
pub async fn wait_for<T, F>(what: &str, within: Duration, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let poll = async {
        loop {
            if let Some(value) = probe().await {
                return value;
            }
            tokio::time::sleep(INTERVAL).await;
        }
    };
    match tokio::time::timeout(within, poll).await {
        Ok(value) => value,
        Err(_) => panic!("waited {within:?} in vain for {what}"),
    }
}

/// Polls `condition` until it holds.
///
/// # Panics
/// When `within` has passed first; the message names `what` was waited for.
pub async fn wait_until<F>(what: &str, within: Duration, mut condition: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    wait_for(what, within, || {
        let holds = condition();
        async move { holds.await.then_some(()) }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_value_that_comes_later_is_waited_for() {
        let mut looks = 0;
        let value = wait_for("the third look", Duration::from_secs(5), || {
            looks += 1;
            let seen = looks;
            async move { (seen == 3).then_some(seen) }
        })
        .await;
        assert_eq!(value, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "in vain for the impossible")]
    async fn a_deadline_names_what_was_waited_for() {
        wait_until("the impossible", Duration::from_millis(1), || async { false }).await;
    }
}
