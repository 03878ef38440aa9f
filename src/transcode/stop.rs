//! Stop sequences that the upstream does not know, or leaves in its text: found across the ends of chunks.

use std::rc::Rc;

use crate::api::Logprobs;

/// Looks for stop sequences in the text of one choice. What may be the beginning of one is held back, and no more.
///
/// Invariant: `held` is shorter than the longest sequence, unless the text is at its end.
#[derive(Clone, Debug)]
pub struct StopScanner {
    sequences: Rc<[String]>,
    /// The end of the text so far, which may be the beginning of a sequence.
    held: String,
    /// Of the tokens of which nothing has been let through yet.
    logprobs: Logprobs,
    /// How many of the first characters held belong to a token that has been let through already.
    skip: usize,
}

/// What of a choice may go on to the client.
#[derive(Debug, Default, PartialEq)]
pub struct Scanned {
    /// May be empty.
    pub text: String,
    /// Of the tokens that begin in `text`.
    pub logprobs: Option<Logprobs>,
    /// A stop sequence came after `text`: the choice ends here.
    pub stopped: bool,
    /// There was more text behind the stop sequence.
    pub went_on: bool,
}

impl StopScanner {
    /// A scanner for one choice; none of the sequences is empty.
    #[must_use]
    pub fn new(sequences: Rc<[String]>) -> Self {
        Self { sequences, held: String::new(), logprobs: Logprobs::default(), skip: 0 }
    }

    /// Takes the choice's next text. With `last`, nothing can follow any more, and nothing is held back.
    pub fn scan(&mut self, text: &str, logprobs: Option<Logprobs>, last: bool) -> Scanned {
        self.held.push_str(text);
        if let Some(logprobs) = logprobs {
            self.logprobs.append(logprobs);
        }
        let found = self.first_match();
        let went_on = found.is_some_and(|(end, _)| end < self.held.len());
        let safe = match found {
            Some((_, start)) => start,
            None if last => self.held.len(),
            None => self.held.len().saturating_sub(self.possible_beginning()),
        };
        // Both are places where a sequence begins or the text ends, and so no character is cut in two.
        let rest = self.held.split_off(safe);
        let text = std::mem::replace(&mut self.held, rest);
        let ends = last && found.is_none();
        let logprobs = self.release(if ends { usize::MAX } else { text.chars().count() });
        Scanned { text, logprobs, stopped: found.is_some(), went_on }
    }

    /// Where the sequence ends and begins that is complete first; of two that end together, the longer one.
    fn first_match(&self) -> Option<(usize, usize)> {
        let matches = self.sequences.iter().filter_map(|sequence| {
            let fits = sequence.len() <= self.held.len();
            let start = fits.then(|| self.held.find(&**sequence)).flatten()?;
            Some((start.saturating_add(sequence.len()), start))
        });
        matches.min()
    }

    /// How many bytes at the end may be the beginning of a sequence.
    fn possible_beginning(&self) -> usize {
        let held = self.held.as_bytes();
        let of = |sequence: &String| {
            let longest = sequence.len().saturating_sub(1).min(held.len());
            let beginning =
                |length: &usize| sequence.as_bytes().get(..*length).is_some_and(|part| held.ends_with(part));
            (1..=longest).rev().find(beginning)
        };
        self.sequences.iter().filter_map(of).max().unwrap_or_default()
    }

    /// The log probabilities of the tokens that begin within the next `chars` characters.
    fn release(&mut self, chars: usize) -> Option<Logprobs> {
        let (mut count, mut at) = (0_usize, self.skip);
        for token in &self.logprobs.tokens {
            if at >= chars {
                break;
            }
            at = at.saturating_add(token.chars().count());
            count = count.saturating_add(1);
        }
        self.skip = at.saturating_sub(chars);
        (count > 0).then(|| self.logprobs.take_first(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text that comes through, and whether a sequence was found; for every way to cut the text in two, and for
    /// characters one by one.
    fn check(sequences: &[&str], text: &str, expected: (&str, bool)) {
        let sequences: Rc<[String]> = sequences.iter().map(|&sequence| sequence.to_owned()).collect();
        let run = |pieces: &[&str]| {
            let (mut scanner, mut out) = (StopScanner::new(Rc::clone(&sequences)), String::new());
            for piece in pieces {
                let found = scanner.scan(piece, None, false);
                out.push_str(&found.text);
                if found.stopped {
                    return (out, true);
                }
            }
            let rest = scanner.scan("", None, true);
            (out + &rest.text, rest.stopped)
        };
        let expected = (expected.0.to_owned(), expected.1);
        for (middle, _) in text.char_indices() {
            let (a, b) = text.split_at(middle);
            assert_eq!(run(&[a, b]), expected, "{sequences:?} in {text:?} split at {middle}");
        }
        let mut buffer = [0; 4];
        let singles: Vec<String> = text.chars().map(|c| c.encode_utf8(&mut buffer).to_owned()).collect();
        assert_eq!(run(&singles.iter().map(String::as_str).collect::<Vec<_>>()), expected, "{sequences:?} in {text:?}");
    }

    #[test]
    fn a_sequence_ends_the_text_before_itself() {
        check(&["END"], "one ENDtwo", ("one ", true));
        check(&["END"], "ENDtwo", ("", true));
        check(&["END"], "one EN", ("one EN", false));
        check(&["END"], "EENEND", ("EEN", true));
        check(&["\n\n", "é!"], "a\nb é?é!", ("a\nb é?", true));
        check(&["aab"], "aaab", ("a", true));
    }

    #[test]
    fn of_several_sequences_the_one_that_is_complete_first_counts() {
        check(&["abcd", "bc"], "xabcd", ("xa", true));
        check(&["bc", "abc"], "xabcd", ("x", true));
        check(&["longer than this", "s"], "longer thas", ("longer tha", true));
    }

    #[test]
    fn only_what_may_be_a_beginning_is_held_back() {
        let mut scanner = StopScanner::new(["stop!".to_owned()].into());
        assert_eq!(scanner.scan("a st", None, false).text, "a ");
        assert_eq!(scanner.scan("s", None, false).text, "st");
        assert_eq!(scanner.scan("to", None, false).text, "");
        assert_eq!(scanner.scan("ne", None, false).text, "stone");
    }

    #[test]
    fn log_probabilities_go_with_the_text_in_which_their_tokens_begin() {
        let of = |tokens: &[&str]| {
            let mut logprobs = Logprobs::default();
            for token in tokens {
                logprobs.tokens.push((*token).to_owned());
                logprobs.token_logprobs.push(None);
                logprobs.top_logprobs.push(crate::api::TopLogprobs::default());
            }
            Some(logprobs)
        };
        let mut scanner = StopScanner::new(["XY".to_owned()].into());
        let tokens = |scanned: Scanned| scanned.logprobs.map(|logprobs| logprobs.tokens).unwrap_or_default();
        assert_eq!(tokens(scanner.scan("ab cX", of(&["ab", " cX"]), false)), ["ab", " cX"]);
        assert_eq!(tokens(scanner.scan("Z", of(&["Z"]), false)), ["Z"]);
        assert!(tokens(scanner.scan("X", of(&["X"]), false)).is_empty());
        let last = scanner.scan("Y!", of(&["Y", "!"]), false);
        assert!(last.stopped && tokens(last).is_empty());
    }
}
