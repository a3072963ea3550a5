//! The Role that a run needs.

use crate::backend::{self, Access};
use std::fmt::Write as _;

/// A right, and what follows where it is not there; nothing may be missing that has no such words.
pub(super) struct Need {
    pub(super) access: Access,
    pub(super) without: Option<&'static str>,
}

/// The Role that grants these, and its binding to this user, as YAML. Their names are of this lock type and this user
/// only, so that they take nothing from anybody when they are applied.
pub(super) fn role(place: &backend::Options, namespace: &str, user: Option<&str>, needs: &[Need]) -> String {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let role = format!("{}-leader-{}", place.name, place.kind.name);
    let account = user.and_then(|user| user.strip_prefix("system:serviceaccount:")?.split_once(':'));
    let (user, subject) = match (account, user) {
        (Some((home, name)), _) => {
            let subject = format!("- kind: ServiceAccount\n    namespace: {}\n    name: {}", text(home), text(name));
            (format!("{home}-{name}"), subject)
        }
        (None, user) => {
            let user = user.unwrap_or("who-runs-leader-run");
            let subject = format!("- kind: User\n    apiGroup: rbac.authorization.k8s.io\n    name: {}", text(user));
            (user.to_owned(), subject)
        }
    };
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-.".contains(c) { c.to_ascii_lowercase() } else { '-' };
    let binding = format!("{role}-{}", user.chars().map(plain).collect::<String>());
    let mut rules: Vec<(&Access, Vec<&str>)> = Vec::new();
    for Need { access, .. } in needs {
        let same = |(rule, _): &&mut (&Access, _)| {
            (rule.group, rule.resource, &rule.name) == (access.group, access.resource, &access.name)
        };
        match rules.iter_mut().find(same) {
            Some((_, verbs)) => verbs.push(access.verb),
            None => rules.push((access, vec![access.verb])),
        }
    }
    let head = |kind: &str, name: &str| {
        let (name, namespace) = (text(name), text(namespace));
        format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}\nmetadata:\n  name: {name}\n  namespace: {namespace}\n"
        )
    };
    let mut yaml = head("Role", &role) + "rules:\n";
    for (Access { group, resource, name, .. }, verbs) in rules {
        let _ = writeln!(yaml, "  - apiGroups: [{}]\n    resources: [{}]", text(group), text(resource));
        if let Some(name) = name {
            let _ = writeln!(yaml, "    resourceNames: [{}]", text(name));
        }
        let verbs: Vec<_> = verbs.into_iter().map(text).collect();
        let _ = writeln!(yaml, "    verbs: [{}]", verbs.join(", "));
    }
    let _ = write!(
        yaml,
        "---\n{}roleRef:\n  apiGroup: rbac.authorization.k8s.io\n  kind: Role\n  name: {}\nsubjects:\n  {subject}\n",
        head("RoleBinding", &binding),
        text(&role)
    );
    yaml
}
