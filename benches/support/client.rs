//! A simple client on one open connection, so that the client itself costs little time.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

pub struct Client {
    stream: TcpStream,
    address: String,
    /// Bytes that were read but not yet returned.
    buffer: Vec<u8>,
}

pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Client {
    pub fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, address: address.to_owned(), buffer: vec![] }
    }

    pub fn get(&mut self, path: &str) -> Answer {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
        self.exchange(request.as_bytes(), b"")
    }

    /// A visitor's profile from the native API.
    pub fn profile(&mut self, id: &str) -> Answer {
        self.get(&format!("/api/v1/profiles/{id}?client=demo&by=third-party"))
    }

    /// Posts a batch and returns its id. Uses v2 if the batch is to create profiles.
    pub fn post(&mut self, creates: bool, file: &[u8]) -> String {
        let version = if creates { "v2/" } else { "" };
        let head = format!(
            "POST /m2/demo/{version}profile/batchUpdate HTTP/1.1\r\nHost: {}\r\nContent-Type: text/csv\r\nContent-Length: {}\r\n\r\n",
            self.address,
            file.len()
        );
        let answer = self.exchange(head.as_bytes(), file);
        assert_eq!(answer.status, 200, "{}", answer.body);
        element(&answer.body, "batchStatus").split_once("batchId=").unwrap().1.to_owned()
    }

    pub fn is_complete(&mut self, batch: &str) -> bool {
        let answer = self.get(&format!("/m2/demo/profile/batchStatus?batchId={batch}"));
        element(&answer.body, "status") == "complete"
    }

    /// Waits until the batch is complete. Returns the rows updated or created, and the rows not found.
    pub fn wait_complete(&mut self, batch: &str) -> (usize, usize) {
        while !self.is_complete(batch) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let answer = self.get(&format!("/m2/demo/profile/batchStatus?batchId={batch}&showDetails=true"));
        let number = |name| element(&answer.body, name).parse().unwrap();
        (number("successfulUpdates"), number("profilesNotFound"))
    }

    /// The number of incomplete batches.
    pub fn pending(&mut self) -> usize {
        self.get("/api/v1/batches?client=demo&status=incomplete").body.matches("\"batchId\"").count()
    }

    /// Looks up a sample of the batch's visitors. Panics if a value differs from the batch.
    pub fn read_back(&mut self, batch: super::rows::Batch, visitors: usize) {
        let known = (0..batch.rows).filter(|n| n % super::rows::UNKNOWN_EVERY != 0);
        for n in known.step_by((batch.rows / visitors).max(1)) {
            self.expect(batch, n);
        }
    }

    /// Whether the visitor of one row has the row's value.
    pub fn shows(&mut self, batch: super::rows::Batch, n: usize) -> bool {
        let expected = format!("\"points\":{{\"value\":\"{}\"", batch.points(n));
        self.profile(&batch.id(n)).body.contains(&expected)
    }

    /// Looks up the visitor of one row. Panics if the value differs from the row.
    pub fn expect(&mut self, batch: super::rows::Batch, n: usize) {
        let (id, points) = (batch.id(n), batch.points(n));
        let answer = self.profile(&id);
        let expected = format!("\"points\":{{\"value\":\"{points}\"");
        assert!(answer.body.contains(&expected), "{id} should have {expected}: {}", answer.body);
    }

    fn exchange(&mut self, head: &[u8], body: &[u8]) -> Answer {
        self.stream.write_all(head).unwrap();
        self.stream.write_all(body).unwrap();
        let mut chunk = [0; 16 << 10];
        loop {
            if let Some((answer, bytes)) = answer_in(&self.buffer) {
                self.buffer.drain(..bytes);
                return answer;
            }
            let read = self.stream.read(&mut chunk).unwrap();
            assert!(read > 0, "the daemon closed the connection");
            self.buffer.extend_from_slice(&chunk[..read]);
        }
    }
}

/// The first complete answer in the bytes, and its length; `None` if it is not complete.
pub fn answer_in(bytes: &[u8]) -> Option<(Answer, usize)> {
    let text = std::str::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
    let body = body.get(..length)?;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Some((Answer { status, body: body.to_owned() }, head.len() + 4 + length))
}

pub fn element<'a>(xml: &'a str, name: &str) -> &'a str {
    let after = xml.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("no {name} in {xml}")).1;
    after.split_once("</").unwrap().0
}
