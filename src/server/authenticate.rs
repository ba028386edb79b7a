//! Proving who a client is: SCRAM-SHA-256 over the protocol's SASL messages, and patience with those who guess.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use pgwire::messages::PgWireFrontendMessage;
use pgwire::messages::startup::Authentication;
use tokio::io::{AsyncRead, AsyncWrite};

use super::message::put;
use super::socket::{Disconnect, Message, Socket, protocol_violation};
use crate::error::{Error, Result};
use crate::scram::{self, Exchange, Verifier};
use crate::session::api::Login;

const WRONG_PASSWORD: &str = "28P01";
const TOO_MANY_CONNECTIONS: &str = "53300";
/// So many wrong passwords cost nothing but themselves.
const FREE_FAILURES: u32 = 3;
/// What the next one costs; each one after it twice as much.
const FIRST_DELAY: Duration = Duration::from_millis(500);
const LONGEST_DELAY: Duration = Duration::from_secs(8);
/// An attempt that would wait longer behind others is refused.
const LONGEST_WAIT: Duration = Duration::from_secs(16);
/// Failures are forgotten after so long.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// Names and addresses that are remembered.
const REMEMBERED_MAX: usize = 10_000;

/// Has a client prove who it is. `None` if it leaves, as psql does to ask its user for the password.
pub async fn authenticate<S>(
    socket: &mut Socket<S>,
    login: Login,
    user: &str,
    secret: &[u8],
) -> Result<Option<bool>, Disconnect>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (verifier, exists) = match login {
        Login::Trusted => return Ok(Some(true)),
        Login::Password(verifier) => (verifier, true),
        Login::Never => (Verifier::of_nobody(user, secret), false),
    };
    put(&mut socket.output, &Authentication::SASL(vec![scram::MECHANISM.to_string()]));
    let Some(message) = answer(socket).await? else { return Ok(None) };
    let initial = message.into_sasl_initial_response().map_err(|_| unexpected())?;
    if initial.auth_method != scram::MECHANISM {
        let message = format!("client selected an invalid SASL authentication mechanism: {}", initial.auth_method);
        return Err(Disconnect::Protocol(protocol_violation(message)));
    }
    let (exchange, first) = Exchange::begin(verifier, text(initial.data.as_ref())?).map_err(Disconnect::Protocol)?;
    put(&mut socket.output, &Authentication::SASLContinue(Bytes::from(first)));
    let Some(message) = answer(socket).await? else { return Ok(None) };
    let response = message.into_sasl_response().map_err(|_| unexpected())?;
    let proof = exchange.end(text(Some(&response.data))?).map_err(Disconnect::Protocol)?;
    match proof.filter(|_| exists) {
        Some(last) => {
            put(&mut socket.output, &Authentication::SASLFinal(Bytes::from(last)));
            Ok(Some(true))
        }
        None => Ok(Some(false)),
    }
}

/// What the client is told of a failed attempt, whatever the reason.
pub fn failed(user: &str) -> Error {
    Error::new(WRONG_PASSWORD, format!("password authentication failed for user \"{user}\""))
}

async fn answer<S>(
    socket: &mut Socket<S>,
) -> Result<Option<pgwire::messages::startup::PasswordMessageFamily>, Disconnect>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    match socket.message().await? {
        Some(Message::Frontend(PgWireFrontendMessage::PasswordMessageFamily(message))) => Ok(Some(message)),
        Some(Message::Frontend(PgWireFrontendMessage::Terminate(_))) | None => Ok(None),
        Some(_) => Err(unexpected()),
    }
}

fn unexpected() -> Disconnect {
    Disconnect::Protocol(protocol_violation("expected SASL response"))
}

fn text(data: Option<&Bytes>) -> Result<&str, Disconnect> {
    let text = data.and_then(|bytes| std::str::from_utf8(bytes).ok());
    text.ok_or_else(|| Disconnect::Protocol(protocol_violation("malformed SCRAM message")))
}

/// Who has guessed wrong, and when they may guess again.
#[derive(Default)]
pub struct Throttle(Mutex<HashMap<(IpAddr, String), Failures>>);

struct Failures {
    count: u32,
    last: Instant,
    /// When the next attempt may begin: each takes its turn.
    next: Instant,
}

impl Throttle {
    /// How long an attempt has to wait.
    ///
    /// # Errors
    /// 53300 if too many others wait already.
    pub fn wait(&self, address: IpAddr, user: &str) -> Result<Duration> {
        let now = Instant::now();
        let mut all = self.0.lock();
        let Some(failures) = all.get_mut(&(address, user.to_string())) else { return Ok(Duration::ZERO) };
        let begin = failures.next.max(now);
        if begin - now > LONGEST_WAIT {
            return Err(Error::new(TOO_MANY_CONNECTIONS, format!("too many failed logins of user \"{user}\""))
                .with_hint("wait some seconds before the next attempt"));
        }
        failures.next = begin + delay(failures.count);
        Ok(begin - now)
    }

    /// An attempt was wrong.
    pub fn failed(&self, address: IpAddr, user: &str) {
        let now = Instant::now();
        let mut all = self.0.lock();
        if all.len() >= REMEMBERED_MAX {
            all.retain(|_, f| now - f.last < FORGOTTEN_AFTER);
            if all.len() >= REMEMBERED_MAX {
                all.clear();
            }
        }
        let failures = all.entry((address, user.to_string())).or_insert(Failures { count: 0, last: now, next: now });
        failures.count = if now - failures.last > FORGOTTEN_AFTER { 1 } else { failures.count.saturating_add(1) };
        failures.last = now;
        failures.next = failures.next.max(now + delay(failures.count));
    }

    /// An attempt was right: what was before is forgotten.
    pub fn passed(&self, address: IpAddr, user: &str) {
        self.0.lock().remove(&(address, user.to_string()));
    }
}

fn delay(failures: u32) -> Duration {
    match failures.checked_sub(FREE_FAILURES) {
        None => Duration::ZERO,
        Some(more) => FIRST_DELAY.saturating_mul(1 << more.min(16)).min(LONGEST_DELAY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_cost_more_and_more_and_one_address_does_not_pay_for_another() {
        let throttle = Throttle::default();
        let [here, there] = [[127, 0, 0, 1], [127, 0, 0, 2]].map(IpAddr::from);
        let wait = |address| throttle.wait(address, "bob").unwrap();
        for _ in 1..FREE_FAILURES {
            throttle.failed(here, "bob");
            assert_eq!(wait(here), Duration::ZERO);
        }
        throttle.failed(here, "bob");
        assert!(wait(here) > FIRST_DELAY / 2);
        // Those that come at once wait behind each other, and the last of many not at all.
        assert!(wait(here) > FIRST_DELAY);
        while throttle.wait(here, "bob").is_ok() {}
        assert_eq!(throttle.wait(here, "bob").unwrap_err().sqlstate(), TOO_MANY_CONNECTIONS);
        assert_eq!((wait(there), throttle.wait(here, "eve").unwrap()), (Duration::ZERO, Duration::ZERO));
        throttle.passed(here, "bob");
        assert_eq!(wait(here), Duration::ZERO);
        assert_eq!(delay(40), LONGEST_DELAY);
    }
}
