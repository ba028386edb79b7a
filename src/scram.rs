//! SCRAM-SHA-256 (RFC 5802, RFC 7677): what is stored of a password, and the server's side of proving that one is known.
//!
//! The stored verifier has PostgreSQL's form, `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`: it checks a client's proof
//! and proves the server to the client, but does not let its reader log in.

use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac, pbkdf2};

use crate::error::{Error, Result};

/// The name of the mechanism.
pub const MECHANISM: &str = "SCRAM-SHA-256";
/// As many as PostgreSQL takes.
const ITERATIONS: u32 = 4096;
const SALT_BYTES: usize = 16;
const NONCE_BYTES: usize = 18;
const KEY_BYTES: usize = digest::SHA256_OUTPUT_LEN;

/// What a password is checked against.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: [u8; KEY_BYTES],
    server_key: [u8; KEY_BYTES],
}

impl Verifier {
    /// That of a password, with a new salt.
    pub fn new(password: &str) -> Self {
        let mut salt = vec![0; SALT_BYTES];
        fill(&mut salt);
        Self::derive(password, salt, ITERATIONS)
    }

    fn derive(password: &str, salt: Vec<u8>, iterations: u32) -> Self {
        // A password that cannot be prepared is taken as its bytes, as PostgreSQL does.
        let prepared = stringprep::saslprep(password).unwrap_or(password.into());
        let mut salted = [0; KEY_BYTES];
        let rounds = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, prepared.as_bytes(), &mut salted);
        let (client_key, server_key) = (mac(&salted, b"Client Key"), mac(&salted, b"Server Key"));
        Self { iterations, salt, stored_key: sha256(&client_key), server_key }
    }

    /// One that no password fits, always the same for a name: who asks for a role that is not there learns nothing.
    pub fn of_nobody(name: &str, secret: &[u8]) -> Self {
        let salt = mac(secret, name.as_bytes())[..SALT_BYTES].to_vec();
        let key = |what: &str| mac(secret, format!("{what} {name}").as_bytes());
        Self { iterations: ITERATIONS, salt, stored_key: key("stored"), server_key: key("server") }
    }

    /// Reads the stored form.
    pub fn parse(text: &str) -> Option<Self> {
        let (parameters, keys) = text.strip_prefix(MECHANISM)?.strip_prefix('$')?.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (stored, server) = keys.split_once(':')?;
        let key = |text: &str| BASE64.decode(text).ok()?.try_into().ok();
        let iterations = iterations.parse().ok().filter(|n| (1..=10_000_000).contains(n))?;
        Some(Self { iterations, salt: BASE64.decode(salt).ok()?, stored_key: key(stored)?, server_key: key(server)? })
    }

    /// The stored form.
    pub fn text(&self) -> String {
        let [salt, stored, server] =
            [&self.salt[..], &self.stored_key, &self.server_key].map(|bytes| BASE64.encode(bytes));
        format!("{MECHANISM}${}:{salt}${stored}:{server}", self.iterations)
    }
}

/// An exchange with one client, which is thrown away afterwards.
pub struct Exchange {
    verifier: Verifier,
    /// The GSS-API header of the client's first message.
    header: String,
    /// What both sides sign: the messages so far.
    messages: String,
    nonce: String,
}

impl Exchange {
    /// Answers the client's first message.
    ///
    /// # Errors
    /// 08P01 for a malformed one, 0A000 for what is not supported: channel binding, another identity.
    pub fn begin(verifier: Verifier, first: &str) -> Result<(Self, String)> {
        let (binding, rest) = first.split_once(',').ok_or_else(malformed)?;
        match binding {
            // The client has no channel binding, or believes that the server has none, which is so.
            "n" | "y" => {}
            _ => return Err(Error::unsupported("SCRAM channel binding was not offered")),
        }
        let (identity, bare) = rest.split_once(',').ok_or_else(malformed)?;
        if !identity.is_empty() {
            return Err(Error::unsupported("SCRAM with an authorization identity is not supported"));
        }
        // The name is that of the start-up packet, and this one is not looked at. `m=` is for extensions, which there are none of.
        let attributes: Vec<&str> = bare.split(',').collect();
        let [user, theirs, ..] = attributes.as_slice() else { return Err(malformed()) };
        let theirs =
            theirs.strip_prefix("r=").filter(|n| !n.is_empty() && user.starts_with("n=")).ok_or_else(malformed)?;
        let mut own = [0; NONCE_BYTES];
        fill(&mut own);
        let nonce = format!("{theirs}{}", BASE64.encode(own));
        let answer = format!("r={nonce},s={},i={}", BASE64.encode(&verifier.salt), verifier.iterations);
        let messages = format!("{bare},{answer}");
        Ok((Self { verifier, header: format!("{binding},{identity},"), messages, nonce }, answer))
    }

    /// Checks the client's last message: the answer that proves the server to it, or `None` if its password is another.
    ///
    /// # Errors
    /// 08P01 for a malformed one.
    pub fn end(self, last: &str) -> Result<Option<String>> {
        let (unproven, proof) = last.rsplit_once(",p=").ok_or_else(malformed)?;
        let mut attributes = unproven.split(',');
        let binding = attributes.next().and_then(|a| a.strip_prefix("c=")).ok_or_else(malformed)?;
        let nonce = attributes.next().and_then(|a| a.strip_prefix("r=")).ok_or_else(malformed)?;
        if BASE64.decode(binding).ok().as_deref() != Some(self.header.as_bytes()) || nonce != self.nonce {
            return Err(malformed());
        }
        let proof: [u8; KEY_BYTES] = BASE64.decode(proof).ok().and_then(|p| p.try_into().ok()).ok_or_else(malformed)?;
        let signed = format!("{},{unproven}", self.messages);
        let signature = mac(&self.verifier.stored_key, signed.as_bytes());
        let mut client_key = [0; KEY_BYTES];
        for (i, byte) in client_key.iter_mut().enumerate() {
            *byte = proof[i] ^ signature[i];
        }
        // What is compared are hashes of what the client sent, so that the time it takes tells it nothing.
        if sha256(&client_key) != self.verifier.stored_key {
            return Ok(None);
        }
        Ok(Some(format!("v={}", BASE64.encode(mac(&self.verifier.server_key, signed.as_bytes())))))
    }
}

fn malformed() -> Error {
    Error::new("08P01", "malformed SCRAM message")
}

fn mac(key: &[u8], data: &[u8]) -> [u8; KEY_BYTES] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data);
    tag.as_ref().try_into().unwrap_or([0; KEY_BYTES])
}

fn sha256(data: &[u8]) -> [u8; KEY_BYTES] {
    digest::digest(&digest::SHA256, data).as_ref().try_into().unwrap_or([0; KEY_BYTES])
}

/// Fills with random bytes.
///
/// # Panics
/// If the system has none: nothing that is secret could be made without them.
pub fn fill(bytes: &mut [u8]) {
    SystemRandom::new().fill(bytes).expect("the system's random numbers");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exchange of RFC 7677, section 3, whose nonces are given.
    #[test]
    fn the_example_of_the_rfc() {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = Verifier::derive("pencil", salt, 4096);
        assert!(Verifier::parse(&verifier.text()).as_ref() == Some(&verifier));
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let exchange = Exchange {
            verifier,
            header: "n,,".into(),
            messages: format!("n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"),
            nonce: nonce.into(),
        };
        let last = format!("c=biws,r={nonce},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
        let answer = exchange.end(&last).unwrap();
        assert_eq!(answer.as_deref(), Some("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
    }

    /// What a client with a password answers.
    fn answer(password: &str, first_bare: &str, server_first: &str) -> String {
        let part = |name: &str| server_first.split(',').find_map(|a| a.strip_prefix(name)).unwrap();
        let salt = BASE64.decode(part("s=")).unwrap();
        let mut salted = [0; KEY_BYTES];
        let rounds = NonZeroU32::new(part("i=").parse().unwrap()).unwrap();
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, password.as_bytes(), &mut salted);
        let key = mac(&salted, b"Client Key");
        let unproven = format!("c=biws,r={}", part("r="));
        let signature = mac(&sha256(&key), format!("{first_bare},{server_first},{unproven}").as_bytes());
        let proof: Vec<u8> = key.iter().zip(signature).map(|(k, s)| k ^ s).collect();
        format!("{unproven},p={}", BASE64.encode(proof))
    }

    #[test]
    fn only_the_password_passes() {
        let verifier = Verifier::new("pässword");
        let bare = "n=,r=abc";
        let tries = [(&verifier, "pässword", true), (&verifier, "password", false)];
        let nobody = Verifier::of_nobody("bob", b"secret");
        for (verifier, password, passes) in tries.into_iter().chain([(&nobody, "pässword", false)]) {
            let (exchange, first) = Exchange::begin(verifier.clone(), &format!("n,,{bare}")).unwrap();
            assert_eq!(exchange.end(&answer(password, bare, &first)).unwrap().is_some(), passes);
        }
        assert!(nobody == Verifier::of_nobody("bob", b"secret") && nobody != Verifier::of_nobody("eve", b"secret"));
    }

    #[test]
    fn malformed_messages_are_refused() {
        let verifier = Verifier::new("x");
        for first in ["", "n", "n,", "n,,", "n,,n=,r=", "n,,r=abc,n=", "x,,n=,r=abc", "p=tls-unique,,n=,r=abc"] {
            assert!(Exchange::begin(verifier.clone(), first).is_err(), "{first}");
        }
        assert!(Exchange::begin(verifier.clone(), "n,a=other,n=,r=abc").is_err());
        let wrong = ["", "c=biws", "c=biws,r=abc", "c=biws,r=abc,p=", "c=eSws,r=abc,p=AA=="];
        for last in wrong {
            let (exchange, _) = Exchange::begin(verifier.clone(), "n,,n=,r=abc").unwrap();
            assert!(exchange.end(last).is_err(), "{last}");
        }
        for text in ["", "SCRAM-SHA-256$", "SCRAM-SHA-256$0:AA==$AA==:AA==", "md5abc"] {
            assert!(Verifier::parse(text).is_none(), "{text}");
        }
    }
}
