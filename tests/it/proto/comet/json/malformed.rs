//! Texts that are no JSON (T14).

use reverse_http::proto::comet::{answer_from_json, event_from_json};
use serde_json::json;

use super::super::{limits, show, status};
use super::{answer, is_refused, refused, text, with};

// ── Texts that are no JSON (T14), after the classes of JSONTestSuite ──

/// What has to be refused, alone and as the value of a member. Names are the suite's, without `n_`.
const MALFORMED: &[(&str, &[u8])] = &[
    ("array_1_true_without_comma", b"[1 true]"),
    ("array_a_invalid_utf8", b"[a\xE5]"),
    ("array_colon_instead_of_comma", b"[\"\": 1]"),
    ("array_comma_after_close", b"[\"\"],"),
    ("array_comma_and_number", b"[,1]"),
    ("array_double_comma", b"[1,,2]"),
    ("array_double_extra_comma", b"[\"x\",,]"),
    ("array_extra_close", b"[\"x\"]]"),
    ("array_extra_comma", b"[\"\",]"),
    ("array_incomplete", b"[\"x\""),
    ("array_incomplete_invalid_value", b"[x"),
    ("array_inner_array_no_comma", b"[3[4]]"),
    ("array_invalid_utf8", b"[\xFF]"),
    ("array_items_separated_by_semicolon", b"[1:2]"),
    ("array_just_comma", b"[,]"),
    ("array_just_minus", b"[-]"),
    ("array_missing_value", b"[   , \"\"]"),
    ("array_newlines_unclosed", b"[\"a\",\n4\n,1,"),
    ("array_number_and_comma", b"[1,]"),
    ("array_number_and_several_commas", b"[1,,]"),
    ("array_spaces_vertical_tab_formfeed", b"[\"\x0Ba\"\\f]"),
    ("array_star_inside", b"[*]"),
    ("array_unclosed", b"[\"\""),
    ("array_unclosed_trailing_comma", b"[1,"),
    ("array_unclosed_with_new_lines", b"[1,\n1\n,1"),
    ("array_unclosed_with_object_inside", b"[{}"),
    ("incomplete_false", b"[fals]"),
    ("incomplete_null", b"[nul]"),
    ("incomplete_true", b"[tru]"),
    ("multidigit_number_then_00", b"123\0"),
    ("number_++", b"[++1234]"),
    ("number_+1", b"[+1]"),
    ("number_+Inf", b"[+Inf]"),
    ("number_-01", b"[-01]"),
    ("number_-1.0.", b"[-1.0.]"),
    ("number_-2.", b"[-2.]"),
    ("number_-NaN", b"[-NaN]"),
    ("number_.-1", b"[.-1]"),
    ("number_.2e-3", b"[.2e-3]"),
    ("number_0.1.2", b"[0.1.2]"),
    ("number_0.3e+", b"[0.3e+]"),
    ("number_0.3e", b"[0.3e]"),
    ("number_0.e1", b"[0.e1]"),
    ("number_0_capital_E+", b"[0E+]"),
    ("number_0_capital_E", b"[0E]"),
    ("number_0e+", b"[0e+]"),
    ("number_0e", b"[0e]"),
    ("number_1.0e+", b"[1.0e+]"),
    ("number_1.0e-", b"[1.0e-]"),
    ("number_1.0e", b"[1.0e]"),
    ("number_1_000", b"[1 000.0]"),
    ("number_1eE2", b"[1eE2]"),
    ("number_2.e+3", b"[2.e+3]"),
    ("number_2.e-3", b"[2.e-3]"),
    ("number_2.e3", b"[2.e3]"),
    ("number_9.e+", b"[9.e+]"),
    ("number_Inf", b"[Inf]"),
    ("number_NaN", b"[NaN]"),
    ("number_U+FF11_fullwidth_digit_one", b"[\xEF\xBC\x91]"),
    ("number_expression", b"[1+2]"),
    ("number_hex_1_digit", b"[0x1]"),
    ("number_hex_2_digits", b"[0x42]"),
    ("number_infinity", b"[Infinity]"),
    ("number_invalid+-", b"[0e+-1]"),
    ("number_invalid-negative-real", b"[-123.123foo]"),
    ("number_invalid-utf-8-in-bigger-int", b"[123\xE5]"),
    ("number_invalid-utf-8-in-exponent", b"[1e1\xE5]"),
    ("number_invalid-utf-8-in-int", b"[0\xE5]\n"),
    ("number_minus_infinity", b"[-Infinity]"),
    ("number_minus_sign_with_trailing_garbage", b"[-foo]"),
    ("number_minus_space_1", b"[- 1]"),
    ("number_neg_int_starting_with_zero", b"[-012]"),
    ("number_neg_real_without_int_part", b"[-.123]"),
    ("number_neg_with_garbage_at_end", b"[-1x]"),
    ("number_real_garbage_after_e", b"[1ea]"),
    ("number_real_with_invalid_utf8_after_e", b"[1e\xE5]"),
    ("number_real_without_fractional_part", b"[1.]"),
    ("number_starting_with_dot", b"[.123]"),
    ("number_with_alpha", b"[1.2a-3]"),
    ("number_with_alpha_char", b"[1.8011670033376514H-308]"),
    ("number_with_leading_zero", b"[012]"),
    ("object_bad_value", b"[\"x\", truth]"),
    ("object_bracket_key", b"{[: \"x\"}\n"),
    ("object_comma_instead_of_colon", b"{\"x\", null}"),
    ("object_double_colon", b"{\"x\"::\"b\"}"),
    ("object_emoji", b"{\xF0\x9F\x87\xA8\xF0\x9F\x87\xAD}"),
    ("object_garbage_at_end", b"{\"a\":\"a\" 123}"),
    ("object_key_with_single_quotes", b"{key: 'value'}"),
    ("object_lone_continuation_byte_in_key_and_trailing_comma", b"{\"\xB9\":\"0\",}"),
    ("object_missing_colon", b"{\"a\" b}"),
    ("object_missing_key", b"{:\"b\"}"),
    ("object_missing_semicolon", b"{\"a\" \"b\"}"),
    ("object_missing_value", b"{\"a\":"),
    ("object_no-colon", b"{\"a\""),
    ("object_non_string_key", b"{1:1}"),
    ("object_non_string_key_but_huge_number_instead", b"{9999E9999:1}"),
    ("object_repeated_null_null", b"{null:null,null:null}"),
    ("object_several_trailing_commas", b"{\"id\":0,,,,,}"),
    ("object_single_quote", b"{'a':0}"),
    ("object_trailing_comma", b"{\"id\":0,}"),
    ("object_trailing_comment", b"{\"a\":\"b\"}/**/"),
    ("object_trailing_comment_open", b"{\"a\":\"b\"}/**//"),
    ("object_trailing_comment_slash_open", b"{\"a\":\"b\"}//"),
    ("object_trailing_comment_slash_open_incomplete", b"{\"a\":\"b\"}/"),
    ("object_two_commas_in_a_row", b"{\"a\":\"b\",,\"c\":\"d\"}"),
    ("object_unquoted_key", b"{a: \"b\"}"),
    ("object_unterminated-value", b"{\"a\":\"a"),
    ("object_with_single_string", b"{ \"foo\" : \"bar\", \"a\" }"),
    ("object_with_trailing_garbage", b"{\"a\":\"b\"}#"),
    ("single_space", b" "),
    ("string_1_surrogate_then_escape", b"[\"\\uD800\\\"]"),
    ("string_1_surrogate_then_escape_u", b"[\"\\uD800\\u\"]"),
    ("string_1_surrogate_then_escape_u1", b"[\"\\uD800\\u1\"]"),
    ("string_1_surrogate_then_escape_u1x", b"[\"\\uD800\\u1x\"]"),
    ("string_accentuated_char_no_quotes", b"[\xC3\xA9]"),
    ("string_backslash_00", b"[\"\\\0\"]"),
    ("string_escape_x", b"[\"\\x00\"]"),
    ("string_escaped_backslash_bad", b"[\"\\\\\\\"]"),
    ("string_escaped_ctrl_char_tab", b"[\"\\\t\"]"),
    ("string_escaped_emoji", b"[\"\\\xF0\x9F\x8C\x80\"]"),
    ("string_incomplete_escape", b"[\"\\\"]"),
    ("string_incomplete_escaped_character", b"[\"\\u00A\"]"),
    ("string_incomplete_surrogate", b"[\"\\uD834\\uDd\"]"),
    ("string_incomplete_surrogate_escape_invalid", b"[\"\\uD800\\uD800\\x\"]"),
    ("string_invalid-utf-8-in-escape", b"[\"\\u\xE5\"]"),
    ("string_invalid_backslash_esc", b"[\"\\a\"]"),
    ("string_invalid_unicode_escape", b"[\"\\uqqqq\"]"),
    ("string_invalid_utf8_after_escape", b"[\"\\\xE5\"]"),
    ("string_leading_uescaped_thinspace", b"[\\u0020\"asd\"]"),
    ("string_no_quotes_with_bad_escape", b"[\\n]"),
    ("string_single_doublequote", b"\""),
    ("string_single_quote", b"['single quote']"),
    ("string_single_string_no_double_quotes", b"abc"),
    ("string_start_escape_unclosed", b"[\"\\"),
    ("string_unescaped_ctrl_char", b"[\"a\0a\"]"),
    ("string_unescaped_newline", b"[\"new\nline\"]"),
    ("string_unescaped_tab", b"[\"\t\"]"),
    ("string_unicode_CapitalU", b"\"\\UA66D\""),
    ("string_with_trailing_garbage", b"\"\"x"),
    ("structure_U+2060_word_joined", b"[\xE2\x81\xA0]"),
    ("structure_UTF8_BOM_no_data", b"\xEF\xBB\xBF"),
    ("structure_angle_bracket_.", b"<.>"),
    ("structure_angle_bracket_null", b"[<null>]"),
    ("structure_array_trailing_garbage", b"[1]x"),
    ("structure_array_with_extra_array_close", b"[1]]"),
    ("structure_array_with_unclosed_string", b"[\"asd]"),
    ("structure_ascii-unicode-identifier", b"a\xC3\xA5"),
    ("structure_capitalized_True", b"[True]"),
    ("structure_close_unopened_array", b"1]"),
    ("structure_comma_instead_of_closing_brace", b"{\"x\": true,"),
    ("structure_double_array", b"[][]"),
    ("structure_end_array", b"]"),
    ("structure_incomplete_UTF8_BOM", b"\xEF\xBB{}"),
    ("structure_lone-invalid-utf-8", b"\xE5"),
    ("structure_lone-open-bracket", b"["),
    ("structure_null-byte-outside-string", b"[\0]"),
    ("structure_number_with_trailing_garbage", b"2@"),
    ("structure_object_followed_by_closing_object", b"{}}"),
    ("structure_object_unclosed_no_value", b"{\"\":"),
    ("structure_object_with_comment", b"{\"a\":/*comment*/\"b\"}"),
    ("structure_object_with_trailing_garbage", b"{\"a\": true} \"x\""),
    ("structure_open_array_apostrophe", b"['"),
    ("structure_open_array_comma", b"[,"),
    ("structure_open_array_open_object", b"[{"),
    ("structure_open_array_open_string", b"[\"a"),
    ("structure_open_array_string", b"[\"a\""),
    ("structure_open_object", b"{"),
    ("structure_open_object_close_array", b"{]"),
    ("structure_open_object_comma", b"{,"),
    ("structure_open_object_open_array", b"{["),
    ("structure_open_object_open_string", b"{\"a"),
    ("structure_open_object_string_with_apostrophes", b"{'a'"),
    ("structure_open_open", b"[\"\\{[\"\\{[\"\\{[\"\\{"),
    ("structure_single_eacute", b"\xE9"),
    ("structure_single_star", b"*"),
    ("structure_trailing_#", b"{\"a\":\"b\"}#{}"),
    ("structure_uescaped_LF_before_string", b"[\\u000A\"\"]"),
    ("structure_unclosed_array", b"[1"),
    ("structure_unclosed_array_partial_null", b"[ false, nul"),
    ("structure_unclosed_array_unfinished_false", b"[ true, fals"),
    ("structure_unclosed_array_unfinished_true", b"[ false, tru"),
    ("structure_unclosed_object", b"{\"asd\":\"asd\""),
    ("structure_unicode-identifier", b"\xC3\xA5"),
    ("structure_whitespace_U+2060_word_joiner", b"\xE2\x81\xA0"),
    ("structure_whitespace_formfeed", b"[\x0C]"),
    // Not in the suite.
    ("no-break space", b"[\xC2\xA0]"),
    ("vertical tab alone", b"\x0B"),
    ("form feed alone", b"\x0C"),
    ("line end alone", b"\r\n"),
    ("line separator", b"[\xE2\x80\xA8]"),
    ("comment to the end of the line", b"1 // one\n"),
    ("undefined", b"undefined"),
    ("Python's None", b"[None]"),
    ("octal escape", b"[\"\\101\"]"),
    ("long unicode escape", b"[\"\\u{41}\"]"),
    ("escaped quote", b"[\"\\'\"]"),
    ("DEL in place of white space", b"[\x7F]"),
    ("number with underscore", b"[1_0]"),
    ("number with a type", b"[1u8]"),
    ("octal number", b"[0o7]"),
    ("binary number", b"[0b1]"),
];

/// What a parser may take or not (the suite's `i_`): text that is no text. It is refused here.
const NO_TEXT: &[(&str, &[u8])] = &[
    ("object_key_lone_2nd_surrogate", b"{\"\\uDFAA\":0}"),
    ("string_1st_surrogate_but_2nd_missing", b"[\"\\uDADA\"]"),
    ("string_1st_valid_surrogate_2nd_invalid", b"[\"\\uD888\\u1234\"]"),
    ("string_UTF-16LE_with_BOM", b"\xFF\xFE[\0\"\0\xE9\0\"\0]\0"),
    ("string_UTF-8_invalid_sequence", b"[\"\xE6\x97\xA5\xD1\x88\xFA\"]"),
    ("string_UTF8_surrogate_U+D800", b"[\"\xED\xA0\x80\"]"),
    ("string_incomplete_surrogate_and_escape_valid", b"[\"\\uD800\\n\"]"),
    ("string_incomplete_surrogate_pair", b"[\"\\uDd1ea\"]"),
    ("string_incomplete_surrogates_escape_valid", b"[\"\\uD800\\uD800\\n\"]"),
    ("string_invalid_lonely_surrogate", b"[\"\\ud800\"]"),
    ("string_invalid_surrogate", b"[\"\\ud800abc\"]"),
    ("string_invalid_utf-8", b"[\"\xFF\"]"),
    ("string_inverted_surrogates_U+1D11E", b"[\"\\uDd1e\\uD834\"]"),
    ("string_iso_latin_1", b"[\"\xE9\"]"),
    ("string_lone_second_surrogate", b"[\"\\uDFAA\"]"),
    ("string_lone_utf8_continuation_byte", b"[\"\x81\"]"),
    ("string_not_in_unicode_range", b"[\"\xF4\xBF\xBF\xBF\"]"),
    ("string_overlong_sequence_2_bytes", b"[\"\xC0\xAF\"]"),
    ("string_overlong_sequence_6_bytes", b"[\"\xFC\x83\xBF\xBF\xBF\xBF\"]"),
    ("string_overlong_sequence_6_bytes_null", b"[\"\xFC\x80\x80\x80\x80\x80\"]"),
    ("string_truncated-utf-8", b"[\"\xE0\xFF\"]"),
    ("string_utf16BE_no_BOM", b"\0[\0\"\0\xE9\0\"\0]"),
    ("string_utf16LE_no_BOM", b"[\0\"\0\xE9\0\"\0]\0"),
    ("structure_UTF-8_BOM_empty_object", b"\xEF\xBB\xBF{}"),
];

/// Right values, among them all that look like those above; they are ignored in a member that
/// nobody knows.
const RIGHT: &[&[u8]] = &[
    b"[]",
    b"[[]   ]",
    b"[\"\"]",
    b"[null, 1, \"1\", {}]",
    b"[1,null,null,null,2]",
    b"[123e65]",
    b"[0e+1]",
    b"[0e1]",
    b"[-0]",
    b"[-0.000000000000000000000000000000000000000000000000000000000000000000000000000001]",
    b"[1E-2]",
    b"[1E+2]",
    b"[123.456789]",
    b"{\"asd\":\"sdf\", \"dfg\":\"fgh\"}",
    b"{\"\":0}",
    b"{\"foo\\u0000bar\": 42}",
    b"{\n\"a\": \"b\"\n}",
    b"[\"\\u0060\\u012a\\u12AB\"]",
    b"[\"\\uD801\\udc37\"]",
    b"[\"\\uDBFF\\uDFFF\"]",
    b"[\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"]",
    b"[\"\\\\u0000\"]",
    b"[\"a/*b*/c/*d//e\"]",
    b"[\"\\u0000\"]",
    b"[\"\x7F\"]",
    b"[\"\xC2\xA0\xE2\x80\xA8\xEF\xBF\xBF\xF4\x8F\xBF\xBF\"]",
    b"\"\"",
    b"42",
    b"-0.1",
    b"false",
    b"true",
    b"null",
    b" [] ",
];

/// The text as the value of a member nobody knows, deeper down there, and where a field's value is
/// expected.
fn placed(text: &[u8]) -> Vec<Vec<u8>> {
    [
        (&b"{\"message-id\": \"xxx\", \"unknown\": "[..], &b"}"[..]),
        (b"{\"unknown\": [0, {\"a\": ", b"}], \"message-id\": \"xxx\"}"),
        (b"{\"message-id\": \"xxx\", \"headers\": [[\"X\", ", b"]]}"),
        (b"{\"message-id\": \"xxx\", \"body\": ", b"}"),
    ]
    .iter()
    .map(|(before, behind)| [before, text, behind].concat())
    .collect()
}

#[test]
fn malformed_texts_are_refused() {
    assert!(MALFORMED.len() >= 120);
    let mut taken = String::new();
    for (name, bytes) in MALFORMED.iter().chain(NO_TEXT) {
        for bytes in placed(bytes).iter().map(Vec::as_slice).chain([*bytes]) {
            if let Err(how) = is_refused(bytes) {
                taken += &format!("\n{name}: {how}");
            }
        }
    }
    assert!(taken.is_empty(), "{taken}");
}

#[test]
fn what_looks_like_them_and_is_right_is_ignored_or_taken() {
    for bytes in RIGHT {
        for placed in &placed(bytes)[..2] {
            assert_eq!(
                text(placed),
                "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                "{}",
                show(placed)
            );
        }
    }
}

#[test]
fn numbers_without_measure_neither_panic_nor_count() {
    for number in [
        "123.456e-789",
        "0.4e00669999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999",
        "-1e+9999",
        "1.5e+9999",
        "-123123e100000",
        "123123e100000",
        "123e-10000000",
        "-123123123123123123123123123123",
        "100000000000000000000",
        "-237462374673276894279832749832423479823246327846",
        &"9".repeat(100_000),
        &format!("0.{}1", "0".repeat(100_000)),
        &format!("1e{}", "9".repeat(100_000)),
    ] {
        for bytes in placed(number.as_bytes())
            .iter()
            .chain([&with(&format!("\"status\": {number}")).into_bytes()])
        {
            // Taken where it means nothing, or refused: both are right. It never is a status.
            match answer_from_json(bytes, None, &limits()) {
                Ok(answer) => {
                    assert!(answer.unwrap().into_text(false).starts_with(b"HTTP/1.1 200 OK\r\n"))
                }
                Err(refusal) => assert_eq!(refusal.status, 400),
            }
            assert_eq!(status(event_from_json(bytes, None, &limits())), Err(400));
        }
    }
}

#[test]
fn deep_nesting_is_refused_without_a_deep_stack() {
    let deep = 100_000;
    let closed = |open: &str, close: &str, deep: usize| {
        format!("{}0{}", open.repeat(deep), close.repeat(deep))
    };
    for text in [
        "[".repeat(deep),
        "{\"a\":".repeat(deep),
        "[{\"\":".repeat(deep / 2),
        closed("[", "]", deep),
        closed("{\"a\":", "}", deep),
        closed("[{\"a\":", "}]", deep / 2),
        closed("[", "]", 500),
        closed("[", "]", 129),
    ] {
        refused(&text);
        placed(text.as_bytes()).iter().for_each(refused);
        refused(format!("{{\"message-id\": {text}}}"));
        refused(with(&format!("\"trailers\": {text}")));
    }
    // What is only somewhat deep is as good as any other value nobody knows.
    answer(with(&format!("\"unknown\": {}", closed("[", "]", 100))));
    answer(with(&format!("\"unknown\": {}", closed("{\"a\":", "}", 100))));
}

#[test]
fn large_texts_are_read_or_refused_and_nothing_worse() {
    let long = "x".repeat(10 << 20);
    assert_eq!(
        text(with(&format!("\"body\": \"{long}\""))).len(),
        "HTTP/1.1 200 OK\r\nContent-Length: 10485760\r\n\r\n".len() + long.len()
    );
    refused(with(&format!("\"body\": \"{long}")));
    refused(with(&format!("\"headers\": [[\"X\", \"{long}\"]]")));
    let long = "x".repeat(1 << 20);
    assert_eq!(
        text(with(&format!("\"{long}\": \"{long}\""))),
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    );
    for members in [
        format!("\"status\": \"{long}\""),
        format!("\"reason\": \"{long}\""),
        format!("\"headers\": [[\"{long}\", \"y\"]]"),
        format!("\"headers\": \"{long}\""),
        // What is dropped in the end is counted nevertheless: it is in memory until then.
        format!("\"headers\": {}", json!(vec![["Keep-Alive", "x"]; 257])),
        format!("\"headers\": {}", json!(vec![["Keep-Alive", "x"]; 100_000])),
        format!("\"trailers\": {}", json!(vec![["Host", "x"]; 100_000])),
        format!("\"body-encoding\": \"{long}\""),
    ] {
        refused(with(&members));
    }
    refused(format!("{{\"message-id\": \"{long}\"}}"));
}
