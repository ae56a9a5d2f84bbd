//! The manifests for Kubernetes: Kubernetes' own schemas take them, and they agree with the image and the daemon.

use std::process::Command;

use serde_json::Value;

use super::packaging::{content, file, root};
use crate::support::{Daemon, skip};

/// The version whose schemas are asked.
const VERSION: &str = "1.31";
/// Reads YAML files, whose documents it prints as one JSON list.
const AS_JSON: &str = "import json, sys, yaml\n\
    print(json.dumps([doc for path in sys.argv[1:] for doc in yaml.safe_load_all(open(path))]))\n";

/// The manifests that `kubectl apply -k` would take.
fn names() -> Vec<String> {
    let kustomization = file("kubernetes/kustomization.yaml");
    let listed = kustomization.lines().filter_map(|line| line.strip_prefix("  - "));
    listed.map(|name| format!("kubernetes/{name}")).collect()
}

/// The manifests as JSON; none if the reader of YAML is missing.
fn manifests() -> Option<Vec<Value>> {
    let python = root().join("target/lint/bin/python3");
    if !python.exists() {
        skip("kubernetes-validate is not here");
        return None;
    }
    let paths = names().into_iter().map(|name| root().join("packaging").join(name));
    let said = content(Command::new(python).args(["-c", AS_JSON]).args(paths), "")?;
    Some(serde_json::from_str(&said).unwrap())
}

fn of_kind<'m>(manifests: &'m [Value], kind: &str) -> &'m Value {
    manifests.iter().find(|manifest| manifest["kind"] == kind).unwrap_or_else(|| panic!("there is no {kind}"))
}

/// The texts of a list.
fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().map(|text| text.as_str().unwrap()).collect()
}

/// The value that a container has for an environment variable.
fn variable<'m>(container: &'m Value, name: &str) -> &'m str {
    let mut all = container["env"].as_array().unwrap().iter();
    all.find(|variable| variable["name"] == name).unwrap()["value"].as_str().unwrap()
}

/// What the image says in a line such as `USER`.
fn of_image(word: &str) -> String {
    let recipe = file("Dockerfile");
    let line = recipe.lines().filter_map(|line| line.strip_prefix(word)?.strip_prefix(' ')).next_back();
    line.unwrap_or_else(|| panic!("the image has no {word}")).to_owned()
}

#[test]
fn kubernetes_schemas_take_the_manifests() {
    let validate = root().join("target/lint/bin/kubernetes-validate");
    let names = names();
    assert!(names.len() >= 3, "{names:?}");
    for name in names {
        let path = root().join("packaging").join(&name);
        let mut validate = Command::new(&validate);
        let said = content(validate.args(["--strict", "-k", VERSION]).arg(path), "");
        assert!(said.is_none_or(|said| said.contains("passed")), "{name}");
    }
}

#[test]
fn the_pod_is_that_of_the_image_and_confined() {
    let Some(manifests) = manifests() else { return };
    let set = of_kind(&manifests, "StatefulSet");
    let pod = &set["spec"]["template"]["spec"];
    let (container, first) = (&pod["containers"][0], &pod["initContainers"][0]);
    assert_eq!(set["spec"]["replicas"], 1, "a second replica would be another store");
    let shut = &pod["securityContext"];
    assert_eq!(of_image("USER"), format!("{}:{}", shut["runAsUser"], shut["runAsGroup"]));
    assert_eq!((&shut["runAsNonRoot"], &shut["fsGroup"]), (&true.into(), &shut["runAsGroup"]));
    for container in [container, first] {
        assert_eq!(container["image"], format!("profiled:{}", env!("CARGO_PKG_VERSION")));
        let shut = &container["securityContext"];
        assert_eq!(
            (&shut["readOnlyRootFilesystem"], &shut["allowPrivilegeEscalation"]),
            (&true.into(), &false.into())
        );
        assert_eq!(texts(&shut["capabilities"]["drop"]), ["ALL"]);
    }
    assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() > 10, "a stop may take ten seconds");

    // The ports lead to where the image's daemon listens.
    let port: u64 = of_image("EXPOSE").parse().unwrap();
    assert_eq!(container["ports"][0]["containerPort"], port);
    let service = &of_kind(&manifests, "Service")["spec"];
    assert_eq!(
        (&service["ports"][0]["port"], &service["ports"][0]["targetPort"]),
        (&port.into(), &"http".into())
    );
    assert_eq!(service["selector"], set["spec"]["template"]["metadata"]["labels"]);
    assert_eq!(set["spec"]["selector"]["matchLabels"], service["selector"]);
    assert_eq!(set["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"], port.to_string());

    // What is written lies on a volume, and each volume is there.
    let mounts = container["volumeMounts"].as_array().unwrap();
    let volume_of = |path: &str| {
        let mount = mounts.iter().find(|mount| path.starts_with(mount["mountPath"].as_str().unwrap()));
        mount.unwrap_or_else(|| panic!("{path} is on no volume"))["name"].as_str().unwrap()
    };
    let claims = set["spec"]["volumeClaimTemplates"].as_array().unwrap();
    let claimed = |name: &str| claims.iter().any(|claim| claim["metadata"]["name"] == name);
    let settings = of_kind(&manifests, "ConfigMap")["data"]["profiled.toml"].as_str().unwrap();
    let backups =
        settings.lines().find_map(|line| line.strip_prefix("backup_folder = ")).unwrap().trim_matches('"');
    let data = variable(container, "PROFILED_DATA");
    assert!(claimed(volume_of(data)) && claimed(volume_of(backups)));
    assert_ne!(volume_of(data), volume_of(backups));
    let volumes = pod["volumes"].as_array().unwrap();
    for mount in mounts {
        let name = mount["name"].as_str().unwrap();
        assert!(claimed(name) || volumes.iter().any(|volume| volume["name"] == name), "{name}");
    }
    let settings_volume = volumes.iter().find(|volume| volume["name"] == "settings").unwrap();
    assert_eq!(settings_volume["configMap"]["name"], of_kind(&manifests, "ConfigMap")["metadata"]["name"]);
}

/// The first container makes a token as it would in the pod, and the daemon starts with the pod's arguments and settings.
#[test]
fn the_daemon_starts_with_the_pods_settings_and_answers_its_probes() {
    let Some(manifests) = manifests() else { return };
    let pod = &of_kind(&manifests, "StatefulSet")["spec"]["template"]["spec"];
    let (container, first) = (&pod["containers"][0], &pod["initContainers"][0]);
    let folder = tempfile::tempdir().unwrap();
    // The folders of the pod are folders of this test.
    let here = |text: &str| text.replace("/var/", &format!("{}/", folder.path().display()));
    let mounted = here(first["workingDir"].as_str().unwrap());
    let data = here(variable(first, "PROFILED_DATA"));
    std::fs::create_dir_all(&mounted).unwrap();
    let make_token = || {
        let command = texts(&first["command"]);
        let script = command[2].replace("/usr/bin/profiled", env!("CARGO_BIN_EXE_profiled"));
        let mut shell = Command::new(command[0]);
        shell.arg(command[1]).arg(script).current_dir(&mounted).env_clear().env("PROFILED_DATA", &data);
        content(&mut shell, "").unwrap();
        std::fs::read_to_string(format!("{mounted}/first-token")).unwrap()
    };
    let token = make_token();
    assert!(token.len() > 20 && make_token() == token, "a restart of the pod makes no other token");

    let settings = here(of_kind(&manifests, "ConfigMap")["data"]["profiled.toml"].as_str().unwrap());
    std::fs::create_dir_all(folder.path().join("backups/profiled")).unwrap();
    let arguments = texts(&container["args"]);
    assert_eq!(arguments[..2], ["serve", "--config"]);
    let mut daemon = Daemon::configured(&settings);
    // As in the pod, others than this machine may call.
    daemon.set_data(data.into()).set_host("0.0.0.0").restart();
    for probe in ["livenessProbe", "readinessProbe"] {
        let path = container[probe]["httpGet"]["path"].as_str().unwrap();
        assert_eq!(container[probe]["httpGet"]["port"], container["ports"][0]["name"]);
        assert_eq!(daemon.get(path).status, 200, "{probe}");
    }
    assert_eq!(daemon.get("/api/v1/status").status, 401);
    let bearer = format!("Bearer {}", token.trim_end());
    let status = daemon.call("GET", "/api/v1/status", &[("Authorization", &bearer)], None);
    assert_eq!(status.json()["backup"]["everySeconds"], 86_400, "{}", status.text());
}
