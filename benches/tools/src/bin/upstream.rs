//! The scripted upstream. `POST /one/v1/completions` writes a stream one event at a time, `/many/v1/completions` many, both
//! as fast as they can be written; `/paced/v1/completions` writes at a human pace, `/short/v1/completions` a few events.
//!
//! It prints the port that it listens on, on 127.0.0.1, and ends when its standard input does: it can't outlive the run
//! that started it. One blocking thread a connection: a benchmark has a few dozen, and nothing is cheaper for them.

use std::io::{self, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use bench_tools::http::{Body, read_head};
use bench_tools::script::{Answer, Script};
use bench_tools::stamp;

fn main() -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    println!("{}", listener.local_addr()?.port());
    thread::spawn(|| {
        // What it reads does not matter, nor whether it fails: both mean that nobody is there any more.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        process::exit(0);
    });

    let script = Arc::new(Script::new());
    for connection in listener.incoming() {
        let connection = connection?;
        let script = Arc::clone(&script);
        // A peer that goes away ends its connection and nothing else; what it lost is for the load generator to count.
        thread::spawn(move || serve(connection, &script));
    }
    Ok(())
}

fn serve(mut output: TcpStream, script: &Script) -> io::Result<()> {
    output.set_nodelay(true)?;
    let mut input = BufReader::new(output.try_clone()?);
    let mut body = Vec::new();
    while let Some(head) = read_head(&mut input)? {
        body.clear();
        Body::new(&mut input, head.framing).read_to_end(&mut body)?;
        match script.answer(&head.start, &body) {
            Some(answer) => write(&mut output, answer)?,
            None => output.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")?,
        }
    }
    Ok(())
}

/// Writes are due at times that do not depend on when the ones before went out: a peer that does not read for a while
/// gets all that has become due at once, as from a model that went on.
fn write(output: &mut TcpStream, answer: &Answer) -> io::Result<()> {
    if !answer.head.is_empty() {
        output.write_all(&answer.head)?;
    }
    if answer.pace.is_zero() {
        return answer.writes.iter().try_for_each(|bytes| output.write_all(bytes));
    }
    let mut due = Instant::now();
    for bytes in &answer.writes {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let mut bytes = bytes.clone();
        stamp::write(&mut bytes);
        output.write_all(&bytes)?;
        due += answer.pace;
    }
    Ok(())
}
