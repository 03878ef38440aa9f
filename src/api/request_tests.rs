//! Every row of the API's parameter table, and the wording of every refusal.

use super::request::folded;
use super::{ApiError, CompletionRequest, Prompt};

/// A request with these parameters beside a model and a prompt.
fn body(parameters: &str) -> String {
    let comma = if parameters.is_empty() { "" } else { "," };
    format!(r#"{{"model":"m","prompt":"p"{comma}{parameters}}}"#)
}

fn parse<R>(body: &str, read: impl FnOnce(CompletionRequest<'_>) -> R) -> Result<R, ApiError> {
    CompletionRequest::parse(body.as_bytes()).map(read)
}

#[track_caller]
fn check_accepted(parameters: &str) {
    if let Err(error) = parse(&body(parameters), |_| ()) {
        panic!("{parameters}: {}", error.message);
    }
}

/// The body is refused with 400, this parameter, this code, and a message with these words.
#[track_caller]
fn check_body_refused(body: &str, param: Option<&str>, code: Option<&str>, words: &str) {
    let error = parse(body, |_| ()).expect_err(body);
    assert_eq!((error.status(), error.case.row().1), (400, "invalid_request_error"), "{body}");
    assert_eq!((error.param.as_deref(), error.code()), (param, code), "{body}: {}", error.message);
    assert!(error.message.contains(words), "{body}: {}", error.message);
}

#[track_caller]
fn check_refused(parameters: &str, param: &str, code: &str, words: &str) {
    check_body_refused(&body(parameters), Some(param), Some(code), words);
}

#[test]
fn nothing_but_model_and_prompt_means_the_defaults() {
    let everything_null: Vec<String> = [
        "max_tokens",
        "temperature",
        "top_p",
        "n",
        "best_of",
        "echo",
        "logprobs",
        "stop",
        "stream",
        "stream_options",
        "suffix",
        "seed",
        "frequency_penalty",
        "presence_penalty",
        "logit_bias",
        "user",
    ]
    .map(|name| format!("\"{name}\":null"))
    .to_vec();
    for body in [body(""), body(&everything_null.join(","))] {
        parse(&body, |request| {
            assert_eq!((&*request.model, request.prompt), ("m", Prompt::Text("p".into())));
            assert_eq!((request.n, request.max_tokens, request.best_of, request.logprobs), (1, None, None, None));
            assert_eq!((request.temperature, request.top_p, request.seed), (None, None, None));
            assert_eq!((request.frequency_penalty, request.presence_penalty), (None, None));
            assert!(!request.echo && !request.stream && !request.include_usage && !request.include_obfuscation);
            assert!(request.stop.is_empty() && request.suffix.is_none() && request.user.is_none());
            assert!(request.logit_bias.is_none() && request.extra.is_empty());
        })
        .unwrap();
    }
}

#[test]
fn every_parameter_is_read() {
    let all = body(
        r#""max_tokens":0,"temperature":0.7,"top_p":1,"n":2,"best_of":3,"echo":true,"logprobs":5,"stop":["a","b"],
        "suffix":"\u00e9","seed":-9223372036854775808,"frequency_penalty":-2,"presence_penalty":2.0,
        "logit_bias":{"50256":-100},"user":"u","top_k":[1e999]"#,
    );
    parse(&all, |request| {
        assert_eq!((request.max_tokens, request.n, request.best_of, request.logprobs), (Some(0), 2, Some(3), Some(5)));
        assert_eq!((request.temperature, request.top_p, request.seed), (Some(0.7), Some(1.0), Some(i64::MIN)));
        assert_eq!((request.frequency_penalty, request.presence_penalty), (Some(-2.0), Some(2.0)));
        assert_eq!((request.stop.len(), request.suffix.as_deref(), request.user.as_deref()), (2, Some("é"), Some("u")));
        assert_eq!(request.logit_bias.map(serde_json::value::RawValue::get), Some(r#"{"50256":-100}"#));
        let extra: Vec<_> = request.extra.iter().map(|(name, raw)| (&**name, raw.get())).collect();
        assert_eq!(extra, [("top_k", "[1e999]")], "handed on byte for byte");
        assert!(request.echo);
    })
    .unwrap();
    let stream = body(r#""stream":true,"stream_options":{"include_usage":true,"include_obfuscation":true}"#);
    parse(&stream, |request| assert!(request.stream && request.include_usage && request.include_obfuscation)).unwrap();
}

#[test]
fn every_prompt_form() {
    let check = |prompt: &str, expected: Prompt<'_>, count, tokens| {
        parse(&format!(r#"{{"model":"m","prompt":{prompt},"n":2}}"#), |request| {
            assert_eq!((request.prompt.count(), request.prompt.estimated_tokens()), (count, tokens), "{prompt}");
            assert_eq!(request.choices() as usize, 2 * count);
            assert_eq!(serde_json::to_string(&request.prompt).unwrap(), prompt, "goes out in the form it came");
            assert_eq!(request.prompt, expected);
        })
        .unwrap();
    };
    check(r#""""#, Prompt::Text("".into()), 1, 1);
    check(r#""12345""#, Prompt::Text("12345".into()), 1, 2);
    check(r#"["a","b\n"]"#, Prompt::Texts(vec!["a".into(), "b\n".into()]), 2, 2);
    check("[1,2,3]", Prompt::Tokens(vec![1, 2, 3]), 1, 3);
    check("[[1,2],[3]]", Prompt::TokenLists(vec![vec![1, 2], vec![3]]), 2, 3);
}

#[test]
fn prompts_that_are_none() {
    let check = |prompt: &str, code: &str, words: &str| {
        check_body_refused(&format!(r#"{{"model":"m","prompt":{prompt}}}"#), Some("prompt"), Some(code), words);
    };
    check("null", "invalid_type", "but got null instead");
    check("7", "invalid_type", "'prompt': expected a string, an array of strings");
    check("{}", "invalid_type", "but got an object instead");
    check("[]", "array_below_min_length", "'prompt': array too short");
    check("[[1],[]]", "array_below_min_length", "'prompt[1]': array too short");
    check(r#"["a",1]"#, "invalid_type", "'prompt[1]': expected a string, but got an integer instead");
    check(r#"[1,"a"]"#, "invalid_type", "'prompt[1]': expected a token, but got a string instead");
    check("[1,-2]", "invalid_type", "'prompt[1]'");
    check(r"[[1],2]", "invalid_type", "'prompt[1]': expected an array of tokens");
    check(r#"[[1],["a"]]"#, "invalid_type", "'prompt[1]': expected an array of tokens");
    check("[true]", "invalid_type", "'prompt[0]': expected a token, but got a boolean instead");
    check(&format!("[{}[1]]", "[1],".repeat(2048)), "array_above_max_length", "maximum length 2048");
    let half_a_pair = r#"{"model":"m","prompt":"\ud800"}"#;
    check_body_refused(half_a_pair, Some("prompt"), None, "not valid Unicode");
    check_body_refused(r#"{"model":"m"}"#, Some("prompt"), Some("missing_required_parameter"), "'prompt'");
}

#[test]
fn the_model_is_required() {
    for body in [r#"{"prompt":"p"}"#, r#"{"model":"","prompt":"p"}"#, "{}"] {
        check_body_refused(body, None, None, "you must provide a model parameter");
    }
    for (model, got) in [("null", "null"), ("7", "an integer"), ("[]", "an array")] {
        let body = format!(r#"{{"model":{model},"prompt":"p"}}"#);
        let words = format!("Invalid type for 'model': expected a string, but got {got} instead.");
        check_body_refused(&body, Some("model"), Some("invalid_type"), &words);
    }
    let long = format!(r#"{{"model":"{}","prompt":"p"}}"#, "m".repeat(257));
    check_body_refused(&long, Some("model"), Some("string_above_max_length"), "maximum length 256");
}

#[test]
fn what_is_not_json_and_what_is_not_an_object() {
    for body in ["", "{", "{\"model\":}", "model=m", "{\"model\":\"m\",}", "\u{feff}{}", "{} {}"] {
        check_body_refused(body, None, None, "We could not parse the JSON body of your request.");
    }
    let not_utf8 = CompletionRequest::parse(b"{\"model\":\"\xff\"}").unwrap_err();
    assert!(not_utf8.message.contains("could not parse"));
    for (body, got) in [("[]", "an array"), ("\"x\"", "a string"), ("null", "null"), ("1", "an integer")] {
        check_body_refused(body, None, Some("invalid_type"), &format!("expected an object, but got {got} instead"));
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    check_refused(&format!("\"n\":{deep}"), "n", "invalid_type", "an array");
}

#[test]
fn integers_and_their_ranges() {
    for (name, min, max) in [("max_tokens", 0, i64::from(i32::MAX)), ("n", 1, 128), ("logprobs", 0, 5)] {
        for value in [min, max] {
            check_accepted(&format!("\"{name}\":{value}"));
        }
        check_accepted(&format!("\"{name}\":{min}.0"));
        check_accepted(&format!("\"{name}\":{min}e0"));
        let below =
            format!("'{name}': integer below minimum value. Expected a value >= {min}, but got {} instead.", min - 1);
        check_refused(&format!("\"{name}\":{}", min - 1), name, "integer_below_min_value", &below);
        let above =
            format!("'{name}': integer above maximum value. Expected a value <= {max}, but got {} instead.", max + 1);
        check_refused(&format!("\"{name}\":{}", max + 1), name, "integer_above_max_value", &above);
        check_refused(
            &format!("\"{name}\":99999999999999999999"),
            name,
            "integer_above_max_value",
            "99999999999999999999",
        );
        check_refused(
            &format!("\"{name}\":-99999999999999999999"),
            name,
            "integer_below_min_value",
            "-99999999999999999999",
        );
        for (value, got) in
            [("\"1\"", "a string"), ("1.5", "a decimal number"), ("true", "a boolean"), ("[1]", "an array")]
        {
            let words = format!("Invalid type for '{name}': expected an integer, but got {got} instead.");
            check_refused(&format!("\"{name}\":{value}"), name, "invalid_type", &words);
        }
    }
    check_accepted("\"best_of\":1");
    check_refused("\"best_of\":-1", "best_of", "integer_below_min_value", ">= 0");
    check_refused("\"best_of\":21", "best_of", "integer_above_max_value", "<= 20");
    for seed in [i64::MIN, i64::MAX] {
        check_accepted(&format!("\"seed\":{seed}"));
    }
    check_refused("\"seed\":9223372036854775808", "seed", "integer_above_max_value", "9223372036854775808");
}

#[test]
fn decimals_and_their_ranges() {
    for (name, min, max) in
        [("temperature", 0, 2), ("top_p", 0, 1), ("frequency_penalty", -2, 2), ("presence_penalty", -2, 2)]
    {
        for value in [format!("{min}"), format!("{max}.0"), "0.5".to_owned(), "1e-1".to_owned()] {
            check_accepted(&format!("\"{name}\":{value}"));
        }
        let below = format!("'{name}': decimal below minimum value. Expected a value >= {min}, but got -2.5 instead.");
        check_refused(&format!("\"{name}\":-2.5"), name, "decimal_below_min_value", &below);
        let above = format!("'{name}': decimal above maximum value. Expected a value <= {max}, but got 200 instead.");
        check_refused(&format!("\"{name}\":200"), name, "decimal_above_max_value", &above);
        check_refused(&format!("\"{name}\":1e999"), name, "decimal_above_max_value", "but got 1e999 instead");
        let words = format!("Invalid type for '{name}': expected a decimal, but got a string instead.");
        check_refused(&format!("\"{name}\":\"1\""), name, "invalid_type", &words);
    }
}

#[test]
fn booleans_and_strings() {
    for name in ["echo", "stream"] {
        for value in ["true", "false"] {
            check_accepted(&format!("\"{name}\":{value}"));
        }
        for value in ["1", "\"true\"", "[]"] {
            check_refused(&format!("\"{name}\":{value}"), name, "invalid_type", "expected a boolean");
        }
    }
    for name in ["suffix", "user"] {
        check_accepted(&format!("\"{name}\":\"\""));
        check_refused(&format!("\"{name}\":1"), name, "invalid_type", "expected a string, but got an integer");
    }
    let long = "x".repeat(513);
    check_refused(&format!("\"user\":\"{long}\""), "user", "string_above_max_length", "with length 513 instead");
}

#[test]
fn stop_is_a_string_or_up_to_four() {
    for stop in [r#""a""#, r#"["a"]"#, r#"["a","b","c","d"]"#] {
        check_accepted(&format!("\"stop\":{stop}"));
    }
    check_refused(r#""stop":[]"#, "stop", "array_below_min_length", "minimum length 1");
    let words = "Invalid 'stop': array too long. Expected an array with maximum length 4, but got an array with length 5 instead.";
    check_refused(r#""stop":["a","b","c","d","e"]"#, "stop", "array_above_max_length", words);
    check_refused(r#""stop":["a",1]"#, "stop", "invalid_type", "'stop[1]': expected a string");
    check_refused(r#""stop":7"#, "stop", "invalid_type", "expected a string or an array of strings");
}

#[test]
fn logit_bias_maps_tokens_to_biases() {
    for bias in ["{}", r#"{"0":-100,"50256":100,"7":0.5}"#] {
        check_accepted(&format!("\"logit_bias\":{bias}"));
    }
    check_refused(r#""logit_bias":[]"#, "logit_bias", "invalid_type", "expected an object");
    check_refused(r#""logit_bias":{"1":"x"}"#, "logit_bias", "invalid_type", "'logit_bias.1': expected a decimal");
    check_refused(r#""logit_bias":{"1":101}"#, "logit_bias", "decimal_above_max_value", "<= 100");
    check_refused(r#""logit_bias":{"1":-100.5}"#, "logit_bias", "decimal_below_min_value", ">= -100");
    check_body_refused(
        &body(r#""logit_bias":{"the":1}"#),
        Some("logit_bias"),
        None,
        "Invalid key in 'logit_bias': the.",
    );
}

#[test]
fn stream_options_only_with_stream() {
    for options in ["{}", r#"{"include_usage":null}"#, r#"{"include_usage":false,"include_obfuscation":false}"#] {
        check_accepted(&format!("\"stream\":true,\"stream_options\":{options}"));
    }
    let words = "The 'stream_options' parameter is only allowed when 'stream' is enabled.";
    for stream in ["", r#""stream":false,"#] {
        let body = body(&format!(r#"{stream}"stream_options":{{"include_usage":true}}"#));
        check_body_refused(&body, Some("stream_options"), None, words);
    }
    let refused = |options: &str, code, words| {
        check_refused(&format!("\"stream\":true,\"stream_options\":{options}"), "stream_options", code, words);
    };
    refused("true", "invalid_type", "expected an object, but got a boolean");
    refused(r#"{"include_usage":1}"#, "invalid_type", "'stream_options.include_usage': expected a boolean");
    let unknown = body(r#""stream":true,"stream_options":{"x":1}"#);
    check_body_refused(&unknown, None, None, "Unrecognized request argument supplied: stream_options.x");
}

#[test]
fn best_of_is_at_least_n_and_does_not_stream() {
    check_accepted(r#""n":3,"best_of":3"#);
    check_accepted(r#""stream":true,"best_of":1"#);
    let hint = "you must set 'n' (currently 5) to be at most 'best_of' (currently 4)";
    check_body_refused(&body(r#""n":5,"best_of":4"#), Some("best_of"), None, hint);
    check_body_refused(&body(r#""best_of":0"#), Some("best_of"), None, "(currently 0)");
    check_body_refused(&body(r#""stream":true,"best_of":2"#), Some("best_of"), None, "cannot be streamed");
}

#[test]
fn a_parameter_in_another_case_does_not_get_past_the_checks() {
    let parse_with = |name: &str| parse(&body(&format!("\"{name}\":99999")), |request| request.extra.len());
    for known in ["MODEL", "Max_Tokens", "N", "\u{17f}tream"] {
        assert!(parse_with(known).unwrap_err().message.contains("Unrecognized request argument"), "{known}");
    }
    for unknown in ["top_k", "Top_K", "echo "] {
        assert_eq!(parse_with(unknown), Ok(1), "{unknown}");
    }
}

#[test]
fn a_whole_number_with_a_fraction_is_exact_up_to_2_to_the_53() {
    for (seed, expected) in [("9007199254740991.0", 9_007_199_254_740_991), ("-7.00", -7), ("25e1", 250)] {
        parse(&body(&format!("\"seed\":{seed}")), |request| assert_eq!(request.seed, Some(expected))).unwrap();
    }
    for bad in ["9007199254740994.0", "7.01", "1e400", "1e17"] {
        assert!(parse(&body(&format!("\"seed\":{bad}")), |_| ()).is_err(), "{bad}");
    }
}

#[test]
fn a_name_folds_to_ascii_as_unicode_says() {
    for letter in char::MIN..=char::MAX {
        let unicode = letter.to_uppercase().to_string().to_lowercase();
        let ours = folded(letter.encode_utf8(&mut [0; 4]));
        assert_eq!(ours.is_ascii().then_some(&ours), unicode.is_ascii().then_some(&unicode), "{letter:?}");
    }
}

#[test]
fn an_object_has_a_bounded_number_of_fields() {
    let many = |count: usize| (0..count).map(|i| format!("\"x{i}\":1")).collect::<Vec<_>>().join(",");
    assert_eq!(parse(&body(&many(4094)), |request| request.extra.len()).unwrap(), 4094);
    check_body_refused(&body(&many(4095)), None, None, "more than 4096 parameters");
}

#[test]
fn a_repeated_parameter_counts_as_its_last_value() {
    parse(&body(r#""n":2,"n":3"#), |request| assert_eq!(request.n, 3)).unwrap();
}

#[test]
fn an_unknown_parameter_has_a_bounded_depth() {
    let nested = |levels: usize| format!(r#""x":{}"]["{}"#, "[".repeat(levels), "]".repeat(levels));
    assert_eq!(parse(&body(&nested(64)), |request| request.extra.len()).unwrap(), 1);
    check_body_refused(&body(&nested(65)), Some("x"), None, "more than 64 levels deep");
    let endless = format!(r#""x":{}1{}"#, r#"{"a":["#.repeat(100_000), "]}".repeat(100_000));
    check_body_refused(&body(&endless), Some("x"), None, "more than 64 levels deep");
}
