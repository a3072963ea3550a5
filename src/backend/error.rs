//! What answers and errors mean: for the next request, and in one line for people.

use crate::lock::request::{Failure, Verb};
use crate::mutant::Mutant;
use crate::text::shown;
use kube::client::AuthError;
use serde_json::Value;
use std::error::Error;
use std::iter::successors;

/// What an answer that is no success means for a request of this verb. `subject` is what was to be done,
/// `update lease ops/cronworker`; `needs` what a Role has to grant.
pub fn failure(verb: Verb, subject: &str, needs: &str, status: u16, answer: &Value) -> Failure {
    let whole = answer.get("message").and_then(Value::as_str).or(answer.as_str()).unwrap_or_default();
    let message = excerpt(whole.as_bytes());
    let reason = answer.get("reason").and_then(Value::as_str).unwrap_or_default();
    if !is_status(answer) && !Mutant::PageIsConflict.is_on() {
        // An API server's own 429 is plain text as well.
        let who = if status == 429 { "the server is busy" } else { "the answer is not an API server's" };
        return Failure::Unclear(format!("cannot {subject}: {who}: {message} ({status})"));
    }
    if is_denial(whole) {
        return Failure::Refused(verb, format!("cannot {subject}: {message} ({status})"));
    }
    match (status, verb) {
        (401, _) => {
            Failure::Refused(verb, format!("cannot {subject}: the server does not accept the credentials (401)"))
        }
        (403, _) => {
            // `... is forbidden: User "system:serviceaccount:ops:default" cannot update resource ...`
            let user = whole.split_once("User \"").and_then(|(_, rest)| rest.split('"').next());
            Failure::Refused(
                verb,
                match user {
                    Some(user) if whole.contains(" cannot impersonate ") => {
                        let user = excerpt(user.as_bytes());
                        format!(
                            "cannot {subject}: {user} may not do it as another user (--as): it needs impersonate on users"
                        )
                    }
                    Some(user) => {
                        format!(
                            "cannot {subject}: forbidden for {}; it needs {needs} (leader-run check prints the Role)",
                            excerpt(user.as_bytes())
                        )
                    }
                    None => format!("cannot {subject}: forbidden: {message}"),
                },
            )
        }
        (404, Verb::Create) => {
            let kind = answer.pointer("/details/kind").and_then(Value::as_str);
            let name = answer.pointer("/details/name").and_then(Value::as_str).unwrap_or_default();
            match kind {
                Some("namespaces") => {
                    let name = excerpt(name.as_bytes());
                    Failure::Rejected(format!("cannot {subject}: namespace \"{name}\" does not exist"))
                }
                _ => Failure::Declined(format!("cannot {subject}: {message} (404)")),
            }
        }
        (404 | 409, Verb::Update) | (409, Verb::Create) if reason != "Forbidden" => Failure::Conflict,
        (422, _) if names_the_name(answer) => Failure::Rejected(format!("cannot {subject}: {message} (422)")),
        (404 | 405, Verb::Watch) => Failure::Rejected(format!("cannot {subject}: {message} ({status})")),
        (429, _) => Failure::Busy(format!("cannot {subject}: the server is busy: {message} (429)")),
        (400..500, _) => Failure::Declined(format!("cannot {subject}: {message} ({status})")),
        _ => Failure::Unclear(format!("cannot {subject}: {message} ({status})")),
    }
}

/// Whether an API server says this: it answers whatever it does not carry out with an object of this kind. What stands
/// before it (a proxy, a load balancer) has pages of its own.
pub fn is_status(answer: &Value) -> bool {
    answer.get("kind").and_then(Value::as_str) == Some("Status")
}

/// Whether an admission webhook or policy has denied the request, in the API server's words. The code is the webhook's
/// own choice.
fn is_denial(message: &str) -> bool {
    let both = |begin, end| message.split_once(begin).is_some_and(|(_, rest)| rest.contains(end));
    both("admission webhook \"", "\" denied the request") || both("ValidatingAdmissionPolicy '", "' denied request")
}

/// Whether what makes the object invalid is its name.
fn names_the_name(answer: &Value) -> bool {
    let causes = answer.pointer("/details/causes").and_then(Value::as_array);
    causes.is_some_and(|causes| {
        causes.iter().any(|cause| cause.get("field").and_then(Value::as_str) == Some("metadata.name"))
    })
}

/// The error at the bottom, which says what happened; those above it only say where.
pub(super) fn root(error: &(dyn Error + 'static)) -> String {
    let text = auth_error(error).and_then(|error| match error {
        AuthError::AuthExecStart(error) => Some(format!("their program cannot be started: {error}")),
        AuthError::AuthExecRun { out, .. } => {
            let said = String::from_utf8_lossy(&out.stderr);
            let said = said.lines().rev().find(|line| !line.trim().is_empty());
            let said = said.map(|line| format!(": {}", excerpt(line.as_bytes()))).unwrap_or_default();
            Some(format!("their program ended with {}{said}", out.status))
        }
        AuthError::AuthExecParse(_) => Some("their program printed what is no ExecCredential".into()),
        _ => None,
    });
    text.unwrap_or_else(|| one_line(causes(error).last().unwrap_or(error)))
}

/// What went wrong with the credentials, if it was that. Of a program's failure kube tells the arguments, the
/// environment and the output, which may be the credentials themselves.
pub(super) fn auth_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a AuthError> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    successors(Some(error), |cause| (*cause).source())
}

pub(super) fn one_line(error: &dyn Error) -> String {
    excerpt(error.to_string().lines().next().unwrap_or_default().as_bytes())
}

/// Text from outside, as one line that can be shown.
pub fn excerpt(text: &[u8]) -> String {
    // Cut before it is looked at, for it may be as long as an answer.
    let text = String::from_utf8_lossy(&text[..text.len().min(2_000)]);
    shown(text.replace(char::is_control, " ").trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn update(status: u16, answer: Value) -> Failure {
        failure(Verb::Update, "update lease ops/a", "get, create, update and watch on leases", status, &answer)
    }

    #[test]
    fn a_refusal_names_who_may_not_do_what_and_what_it_needs() {
        let answer = json!({"kind": "Status", "message": "leases \"a\" is forbidden: User \"system:serviceaccount:ops:default\" cannot \
            update resource \"leases\" in API group \"coordination.k8s.io\"", "reason": "Forbidden"});
        let text = "cannot update lease ops/a: forbidden for system:serviceaccount:ops:default; \
                    it needs get, create, update and watch on leases (leader-run check prints the Role)";
        assert_eq!(update(403, answer), Failure::Refused(Verb::Update, text.into()));
    }

    #[test]
    fn a_404_on_a_write_means_that_it_was_deleted_or_that_the_namespace_is_missing() {
        assert_eq!(update(404, json!({"kind": "Status", "reason": "NotFound"})), Failure::Conflict);
        assert_eq!(update(409, json!({"kind": "Status", "reason": "Conflict"})), Failure::Conflict);
        let missing = json!({"kind": "Status", "message": "namespaces \"x\" not found", "details": {"kind": "namespaces", "name": "x"}});
        let create = failure(Verb::Create, "create lease x/a", "", 404, &missing);
        assert_eq!(create, Failure::Rejected("cannot create lease x/a: namespace \"x\" does not exist".into()));
    }

    #[test]
    fn who_may_not_be_another_user_is_told_so() {
        let message =
            "users \"nobody\" is forbidden: User \"bob\" cannot impersonate resource \"users\" in API group \"\"";
        let told =
            failure(Verb::Get, "get lease ops/a", "get on leases", 403, &json!({"kind": "Status", "message": message}));
        assert_eq!(
            told.to_string(),
            "cannot get lease ops/a: bob may not do it as another user (--as): it needs impersonate on users"
        );
    }

    #[test]
    fn an_answer_that_is_not_an_api_servers_is_unclear_whatever_its_code() {
        let pages =
            [json!("404 page not found"), json!({"error": "gone"}), json!(null), json!([]), json!({"kind": "Page"})];
        for page in pages {
            for (status, verb) in [400, 401, 403, 404, 405, 409, 410, 422, 429, 500, 503]
                .into_iter()
                .flat_map(|status| [Verb::Get, Verb::Create, Verb::Update, Verb::Watch].map(|verb| (status, verb)))
            {
                let told = failure(verb, "", "", status, &page);
                assert!(matches!(told, Failure::Unclear(_)), "{status} {verb} {page}: {told:?}");
            }
        }
    }

    #[test]
    fn too_many_requests_is_told_as_a_busy_server_although_it_is_plain_text() {
        let told = update(429, json!("Too many requests, please try again later."));
        assert!(matches!(&told, Failure::Unclear(text) if text.contains("the server is busy: Too many")), "{told:?}");
    }

    #[test]
    fn a_denial_is_known_by_its_words_whatever_its_code() {
        let denials = [
            "admission webhook \"deny.example.com\" denied the request: not now",
            "admission webhook \"deny.example.com\" denied the request without explanation",
            "leases.coordination.k8s.io \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied \
             request: no",
        ];
        for (message, status) in denials.iter().flat_map(|denial| [400, 403, 404, 409, 422].map(|code| (denial, code)))
        {
            for verb in [Verb::Create, Verb::Update] {
                let told = failure(verb, "", "", status, &json!({"kind": "Status", "message": message}));
                assert!(matches!(&told, Failure::Refused(_, text) if text.contains(message)), "{status}: {told:?}");
            }
        }
    }

    #[test]
    fn only_a_missing_namespace_and_an_invalid_name_cannot_get_better() {
        let invalid =
            |field| json!({"kind": "Status", "message": "invalid", "details": {"causes": [{"field": field}]}});
        assert!(matches!(update(422, invalid("metadata.name")), Failure::Rejected(_)));
        for answer in [invalid("spec.leaseDurationSeconds"), json!({"kind": "Status", "message": "no"})] {
            for status in [400, 405, 413, 415, 422] {
                assert!(matches!(update(status, answer.clone()), Failure::Declined(_)), "{status} {answer}");
            }
        }
    }

    #[test]
    fn answers_of_proxies_are_one_bounded_line_without_control_characters() {
        let Failure::Unclear(text) = update(502, Value::String(excerpt("<html>\n\u{1b}[31m".repeat(100).as_bytes())))
        else {
            panic!()
        };
        assert!(text.len() < 400 && !text.contains(['\n', '\u{1b}']));
    }
}
