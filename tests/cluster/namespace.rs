//! What a test owns in the cluster: a namespace, the users it lets in, and an admin's view of its leases.

use std::{
    collections::BTreeSet,
    fmt::Debug,
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{self, Receiver},
    },
    time::{Duration, Instant},
};

use futures_util::TryStreamExt;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
        authorization::v1::{SelfSubjectRulesReview, SelfSubjectRulesReviewSpec},
        coordination::v1::Lease,
        core::v1,
        rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject},
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::{
    apiserver::{Cluster, Shared},
    wait_for,
};

/// API group, resource, verbs.
pub type Grant<'a> = (&'a str, &'a str, &'a [&'a str]);

/// How a lease changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchEventKind {
    Added,
    Modified,
    Deleted,
}

impl Cluster {
    /// A new namespace, which no other test shares.
    pub fn namespace(&self, prefix: &str) -> Namespace {
        let name = format!("{prefix}-{}", self.shared.number());
        self.namespace_named(&name)
    }

    /// One with a name that only one test may use.
    pub fn namespace_named(&self, name: &str) -> Namespace {
        let (shared, name) = (self.shared.clone(), name.to_owned());
        let namespace = v1::Namespace { metadata: named(&name), ..Default::default() };
        let api: Api<v1::Namespace> = Api::all(shared.admin.clone());
        let created = shared.handle.block_on(api.create(&PostParams::default(), &namespace));
        created.expect("create a namespace");
        Namespace { shared, name }
    }
}

/// A test's namespace. Its methods block, and act as admin.
#[derive(Clone)]
pub struct Namespace {
    shared: Arc<Shared>,
    name: String,
}

impl Namespace {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// An admin's access to any kind of object in here; [`Self::block_on`] runs what it returns.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.shared.admin.clone(), &self.name)
    }

    /// Sends an object, in YAML, that is created in here or for the whole cluster, but only for show: what it says has
    /// to be valid and known. Returns its kind.
    pub fn try_out(&self, yaml: &str) -> Result<String, String> {
        let field = |name: &str| yaml.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let (Some(version), Some(kind)) = (field("apiVersion: "), field("kind: ")) else {
            return Err("no apiVersion or no kind".into());
        };
        let group = if version.contains('/') { "apis" } else { "api" };
        let place = match kind {
            "FlowSchema" => String::new(),
            _ => format!("namespaces/{}/", self.name),
        };
        let path = format!("/{group}/{version}/{place}{}s?dryRun=All&fieldValidation=Strict", kind.to_lowercase());
        let request = http::Request::post(path).header("Content-Type", "application/yaml");
        let request = request.body(yaml.as_bytes().to_vec()).expect("a valid request");
        let answer = self.block_on(self.shared.admin.request_text(request));
        answer.map(|_| kind.into()).map_err(|error| error.to_string())
    }

    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.shared.handle.block_on(future)
    }

    /// Runs it meanwhile.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.shared.handle.spawn(future)
    }

    /// A new user who may do this, and nothing else, with the leases in here.
    pub fn user(&self, verbs: &[&str]) -> User {
        self.user_with(&[("coordination.k8s.io", "leases", verbs)])
    }

    /// A new user who may do this, and nothing else, in here.
    pub fn user_with(&self, grants: &[Grant]) -> User {
        let (name, token) = self.shared.user();
        let binding = RoleBinding {
            metadata: named(&name),
            role_ref: RoleRef { kind: "Role".into(), name: name.clone(), ..Default::default() },
            subjects: Some(vec![Subject { kind: "User".into(), name: name.clone(), ..Default::default() }]),
        };
        let role = role(&name, &[]);
        self.block_on(async {
            let post = PostParams::default();
            let created = self.api::<Role>().create(&post, &role).await;
            created.expect("create a role");
            let created = self.api::<RoleBinding>().create(&post, &binding).await;
            created.expect("create a role binding");
        });
        let user = User { namespace: self.clone(), name, token };
        user.set_grants(grants);
        user
    }

    /// A user whose token the API server does not know.
    pub fn stranger(&self) -> User {
        User { namespace: self.clone(), name: "stranger".into(), token: "token-of-stranger".into() }
    }

    pub fn lease(&self, name: &str) -> Option<Lease> {
        let api = self.api::<Lease>();
        self.block_on(api.get_opt(name)).expect("get a lease")
    }

    pub fn create_lease(&self, lease: &Lease) -> Lease {
        let api = self.api::<Lease>();
        self.block_on(api.create(&PostParams::default(), lease)).expect("create a lease")
    }

    /// Reads the lease, edits it and writes it on exactly that version; again if another write came between.
    pub fn replace_lease(&self, name: &str, edit: impl Fn(&mut Lease)) -> Lease {
        let api = self.api::<Lease>();
        self.block_on(async {
            loop {
                let mut lease = api.get(name).await.expect("get a lease");
                edit(&mut lease);
                match api.replace(name, &PostParams::default(), &lease).await {
                    Ok(lease) => return lease,
                    Err(kube::Error::Api(status)) if status.code == 409 => {}
                    Err(error) => panic!("replace lease {name}: {error}"),
                }
            }
        })
    }

    /// Writes without looking first, as a careless person does: a merge patch without a resourceVersion.
    pub fn patch_lease_unconditionally(&self, name: &str, patch: &Value) -> Lease {
        let api = self.api::<Lease>();
        self.block_on(api.patch(name, &PatchParams::default(), &Patch::Merge(patch))).expect("patch a lease")
    }

    /// Has an admission policy deny every create and update of a lease in here, until the result is dropped.
    pub fn deny_lease_writes(&self) -> Policy {
        let name = format!("deny-{}", self.name);
        let (api, bindings) = (Api::all(self.shared.admin.clone()), Api::all(self.shared.admin.clone()));
        let policy: ValidatingAdmissionPolicy = object(json!({
            "metadata": {"name": name},
            "spec": {
                "matchConstraints": {
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.name}},
                    "resourceRules": [{
                        "apiGroups": ["coordination.k8s.io"], "apiVersions": ["v1"], "resources": ["leases"],
                        "operations": ["CREATE", "UPDATE"],
                    }],
                },
                "validations": [{"expression": "false", "message": "no leases today"}],
            },
        }));
        let binding: ValidatingAdmissionPolicyBinding = object(json!({
            "metadata": {"name": name}, "spec": {"policyName": name, "validationActions": ["Deny"]},
        }));
        self.block_on(async {
            let post = PostParams::default();
            api.create(&post, &policy).await.expect("create a policy");
            bindings.create(&post, &binding).await.expect("create a policy's binding");
        });
        let probe = Lease { metadata: named("probe"), ..Default::default() };
        let leases = self.api::<Lease>();
        let dry_run = PostParams { dry_run: true, ..Default::default() };
        wait_for("a policy in effect", Duration::from_secs(30), || {
            self.block_on(leases.create(&dry_run, &probe)).is_err().then_some(())
        });
        Policy { shared: self.shared.clone(), name }
    }

    pub fn delete_lease(&self, name: &str) {
        let api = self.api::<Lease>();
        self.block_on(api.delete(name, &DeleteParams::default())).expect("delete a lease");
    }

    /// Records every change of the lease from now on, each with the instant at which it arrived here.
    ///
    /// The recording goes on until the receiver is dropped.
    pub fn watch_leases(&self, name: &str) -> Receiver<(Instant, WatchEventKind, Lease)> {
        self.watch(name, |lease: Lease| lease)
    }

    /// The same for any kind of object, of each what `view` makes of it.
    pub fn watch<K, T>(
        &self,
        name: &str,
        view: impl Fn(K) -> T + Send + 'static,
    ) -> Receiver<(Instant, WatchEventKind, T)>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: Clone + Debug + DeserializeOwned + Send + 'static,
        T: Send + 'static,
    {
        let (sender, receiver) = mpsc::channel();
        let api = self.api::<K>();
        let only = format!("metadata.name={name}");
        let parameters = WatchParams::default().fields(&only);
        // The server sends what happened after this version, so the recording begins here.
        let list = self.block_on(api.list(&ListParams::default().fields(&only))).expect("list objects");
        let mut version = list.metadata.resource_version.expect("a list's version");

        let events = self.block_on(api.watch(&parameters, &version));
        let mut events = Box::pin(events.expect("watch an object"));

        self.shared.handle.spawn(async move {
            loop {
                while let Some(event) = events.try_next().await.expect("a watch event") {
                    let arrived = Instant::now();
                    let (kind, object) = match event {
                        WatchEvent::Added(object) => (WatchEventKind::Added, object),
                        WatchEvent::Modified(object) => (WatchEventKind::Modified, object),
                        WatchEvent::Deleted(object) => (WatchEventKind::Deleted, object),
                        WatchEvent::Bookmark(mark) => {
                            version = mark.metadata.resource_version;
                            continue;
                        }
                        WatchEvent::Error(status) => panic!("watch an object: {status:?}"),
                    };
                    version = object.resource_version().expect("an object's version");
                    if sender.send((arrived, kind, view(object))).is_err() {
                        return;
                    }
                }
                // A watch ends after some minutes; the next one goes on where it ended.
                let next = api.watch(&parameters, &version).await;
                events.set(next.expect("watch an object"));
            }
        });
        receiver
    }
}

/// An admission policy, in effect until it is dropped.
pub struct Policy {
    shared: Arc<Shared>,
    name: String,
}

impl Drop for Policy {
    fn drop(&mut self) {
        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(self.shared.admin.clone());
        let policies: Api<ValidatingAdmissionPolicy> = Api::all(self.shared.admin.clone());
        // A test that has failed goes on to say why.
        let _ = self.shared.handle.block_on(bindings.delete(&self.name, &DeleteParams::default()));
        let _ = self.shared.handle.block_on(policies.delete(&self.name, &DeleteParams::default()));
    }
}

/// An ordinary user, who may do in one namespace what its Role there says.
pub struct User {
    namespace: Namespace,
    name: String,
    token: String,
}

impl User {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Changes what the user may do with leases, and waits until that is in effect.
    pub fn set_verbs(&self, verbs: &[&str]) {
        self.set_grants(&[("coordination.k8s.io", "leases", verbs)]);
    }

    /// Changes what the user may do, and waits until that is in effect.
    pub fn set_grants(&self, grants: &[Grant]) {
        let role = role(&self.name, grants);
        let api = self.namespace.api::<Role>();
        self.namespace.block_on(api.replace(&self.name, &PostParams::default(), &role)).expect("replace a role");

        let shared = &self.namespace.shared;
        let client = shared.client(&format!("https://{}", shared.address), &self.token);
        let expected: BTreeSet<_> = grants
            .iter()
            .flat_map(|(group, resource, verbs)| verbs.iter().map(|verb| [*group, *resource, *verb].map(String::from)))
            .collect();
        wait_for("the change of a role in effect", Duration::from_secs(30), || {
            (self.permissions(&client) == expected).then_some(())
        });
    }

    /// The group, resource and verb of everything that the API server now allows the user in here.
    fn permissions(&self, client: &Client) -> BTreeSet<[String; 3]> {
        let review = SelfSubjectRulesReview {
            spec: SelfSubjectRulesReviewSpec { namespace: Some(self.namespace.name.clone()) },
            ..Default::default()
        };
        let api: Api<SelfSubjectRulesReview> = Api::all(client.clone());
        let review = self.namespace.block_on(api.create(&PostParams::default(), &review)).expect("review the rules");
        let mut permissions = BTreeSet::new();
        for rule in review.status.expect("a review's status").resource_rules {
            for group in rule.api_groups.iter().flatten() {
                for resource in rule.resources.iter().flatten() {
                    for verb in &rule.verbs {
                        permissions.insert([group.clone(), resource.clone(), verb.clone()]);
                    }
                }
            }
        }
        // Everyone may ask what they may do.
        permissions.retain(|[group, ..]| !group.ends_with("authentication.k8s.io") && group != "authorization.k8s.io");
        permissions
    }

    /// A kubeconfig that leads this user to `server`, with its context in `namespace` if one is given.
    pub fn kubeconfig(&self, server: &str, namespace: Option<&str>) -> PathBuf {
        let shared = &self.namespace.shared;
        shared.kubeconfig(server, &self.token, namespace)
    }

    /// This user's access to any kind of object in the namespace, through `server`.
    pub fn api<K>(&self, server: &str) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        let client = self.namespace.shared.client(server, &self.token);
        Api::namespaced(client, &self.namespace.name)
    }
}

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("an object of this kind")
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.into()), ..Default::default() }
}

fn role(name: &str, grants: &[Grant]) -> Role {
    let rule = |&(group, resource, verbs): &Grant| PolicyRule {
        api_groups: Some(vec![group.into()]),
        resources: Some(vec![resource.into()]),
        verbs: verbs.iter().map(|&verb| verb.into()).collect(),
        ..Default::default()
    };
    // A rule without verbs is refused, and says the same as no rule.
    let rules = grants.iter().filter(|(.., verbs)| !verbs.is_empty());
    Role { metadata: named(name), rules: Some(rules.map(rule).collect()) }
}
