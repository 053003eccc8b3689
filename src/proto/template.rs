//! The target of an IETF offer: a gateway URL's path and query as a template with
//! `{serialized_origin}` (draft-kazuho-ptth-ptth, RFC 6570).

use crate::error::Refusal;
use crate::proto::digits::percent_encoded;
use crate::proto::turn::Name;

/// The one variable that the draft defines: the list of origins.
const VARIABLE: &str = "serialized_origin";

/// Returns true if the target has an expression to expand.
pub(crate) fn is_template(target: &str) -> bool {
    target.contains(['{', '}'])
}

/// Expands the path and query with the origins: RFC 6570 without the operators that the draft
/// excludes (`+ # . / ;`).
///
/// # Errors
/// An invalid expression, or one that the draft does not allow; the sentence says which.
pub(crate) fn expand(template: &str, origins: &[Name]) -> Result<String, Refusal> {
    let wrong = |why: String| Refusal::new(400, why);
    let encoded: Vec<String> =
        origins.iter().map(|origin| percent_encoded(&origin.to_string())).collect();
    let (mut target, mut rest) = (String::new(), template);
    while let Some((literal, behind)) = rest.split_once('{') {
        let unclosed = || {
            wrong(format!("its template has a {{ without a }}, or the other way round: {template}"))
        };
        let (expression, behind) = behind.split_once('}').ok_or_else(unclosed)?;
        if literal.contains('}') || expression.contains('{') {
            return Err(unclosed());
        }
        target.push_str(literal);
        target.push_str(
            &expanded(expression, &encoded)
                .map_err(|why| wrong(format!("its template's {{{expression}}} {why}")))?,
        );
        rest = behind;
    }
    if rest.contains('}') {
        return Err(wrong(format!("its template has a }} without a {{: {template}")));
    }
    target.push_str(rest);
    Ok(target)
}

/// Expands one expression, given without its braces.
fn expanded(expression: &str, origins: &[String]) -> Result<String, String> {
    let (operator, variables) = match expression.chars().next() {
        Some(operator @ ('?' | '&')) => (Some(operator), &expression[1..]),
        Some(operator @ ('+' | '#' | '.' | '/' | ';')) => {
            return Err(format!(
                "has the operator {operator}, which the draft does not allow; {{{VARIABLE}}}, {{?{VARIABLE}}} and {{&{VARIABLE}}} are"
            ));
        }
        _ => (None, expression),
    };
    let mut text = String::new();
    for (n, variable) in variables.split(',').enumerate() {
        let (name, explode) =
            variable.strip_suffix('*').map_or((variable, false), |name| (name, true));
        if name.contains(':') {
            return Err("takes a part of a list, which cannot be".to_owned()); // RFC 6570 §2.4.1
        }
        if name != VARIABLE {
            return Err(format!("names an unknown variable; {VARIABLE} is the only one"));
        }
        let first = if n == 0 { operator } else { operator.map(|_| '&') };
        match operator {
            None if n > 0 => text.push(','),
            _ => text.extend(first),
        }
        match (operator, explode) {
            (None, _) => text.push_str(&origins.join(",")),
            (Some(_), false) => text.push_str(&format!("{VARIABLE}={}", origins.join(","))),
            (Some(_), true) => {
                let pairs: Vec<String> =
                    origins.iter().map(|origin| format!("{VARIABLE}={origin}")).collect();
                text.push_str(&pairs.join("&"));
            }
        }
    }
    Ok(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn templates_are_expanded_as_rfc_6570_says_or_refused_with_a_reason() {
        let origins =
            [Name::origin("https://a.example").unwrap(), Name::origin("http://b:8080").unwrap()];
        let (a, b) = ("https%3A%2F%2Fa.example", "http%3A%2F%2Fb%3A8080");
        for (template, target) in [
            ("/.well-known/ptth/{serialized_origin}/", format!("/.well-known/ptth/{a},{b}/")),
            ("/ptth?origin={serialized_origin}", format!("/ptth?origin={a},{b}")),
            ("/ptth?origin={serialized_origin*}&x=%7B", format!("/ptth?origin={a},{b}&x=%7B")),
            ("/ptth{?serialized_origin}", format!("/ptth?serialized_origin={a},{b}")),
            (
                "/ptth{?serialized_origin*}",
                format!("/ptth?serialized_origin={a}&serialized_origin={b}"),
            ),
            ("/ptth?x=1{&serialized_origin}", format!("/ptth?x=1&serialized_origin={a},{b}")),
            ("/{serialized_origin,serialized_origin}", format!("/{a},{b},{a},{b}")),
        ] {
            assert_eq!(
                expand(template, &origins).map_err(|e| e.reason.into_owned()),
                Ok(target),
                "{template}"
            );
        }
        for (template, part) in [
            ("/{+serialized_origin}", "operator +"),
            ("/{/serialized_origin}", "operator /"),
            ("/{;serialized_origin}", "operator ;"),
            ("/{.serialized_origin}", "operator ."),
            ("/{#serialized_origin}", "operator #"),
            ("/{origin}", "serialized_origin is the only one"),
            ("/{serialized_origin,port}", "serialized_origin is the only one"),
            ("/{}", "serialized_origin is the only one"),
            ("/{serialized_origin:3}", "part of a list"),
            ("/{serialized_origin", "without a }"),
            ("/serialized_origin}", "} without a {"),
            ("/{a{serialized_origin}}", "without a }"),
        ] {
            let why = expand(template, &origins).unwrap_err().reason;
            assert!(why.contains(part), "{template}: {why}");
        }
    }
}
