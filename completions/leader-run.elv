
use builtin;
use str;

set edit:completion:arg-completer[leader-run] = {|@words|
    fn spaces {|n|
        builtin:repeat $n ' ' | str:join ''
    }
    fn cand {|text desc|
        edit:complex-candidate $text &display=$text' '(spaces (- 14 (wcswidth $text)))$desc
    }
    var command = 'leader-run'
    for word $words[1..-1] {
        if (str:has-prefix $word '-') {
            break
        }
        set command = $command';'$word
    }
    var completions = [
        &'leader-run'= {
            cand --lock 'Where the lock lives: lease (a Kubernetes Lease), configmap or endpoints (older locks), configmapsleases or endpointsleases (both at once, on the way to leases), file (this machine, no cluster)'
            cand -n 'Namespace of the lock [default: the kubeconfig context''s, else the service account''s; file: default]'
            cand --namespace 'Namespace of the lock [default: the kubeconfig context''s, else the service account''s; file: default]'
            cand --ns 'Namespace of the lock [default: the kubeconfig context''s, else the service account''s; file: default]'
            cand --name 'Name of the lock [default: COMMAND''s base name]'
            cand --lock-dir 'Where --lock file keeps its records [default: /tmp/leader-run-<uid>]'
            cand --identity 'Who we are; must be unique [default: POD_NAME or host name, and a random part]'
            cand --lease-duration 'How long a lock is valid after its last renewal (3s to 1h, whole seconds)'
            cand --renew-deadline 'The child is asked to stop when the lock could not be renewed for so long [default: 2/3 of the lease duration]'
            cand --retry-period 'How often the lock is renewed [default: 2/15 of the lease duration, between 1s and 2s]'
            cand -w 'Give up when not leading after so long; 0s tries once [default: wait forever]'
            cand --wait 'Give up when not leading after so long; 0s tries once [default: wait forever]'
            cand -s 'The signal that asks the child to stop'
            cand --stop-signal 'The signal that asks the child to stop'
            cand --stop-grace 'After a requested stop, how long until the child is killed; the lock is renewed all the while'
            cand --loss-grace 'After the loss of the lock, how long until the child is killed; 0s: at once [default: as long as is safe]'
            cand --on-lost 'After the loss of the lock: exit with the lost code, or rejoin (contend again)'
            cand --lost-exit-code 'Exit code when the lock was lost'
            cand --step-down-signal 'The signal that makes a leader stop the child, give the lock back and contend again after the retry period [default: none]'
            cand --kubeconfig 'Kubeconfig file [default: KUBECONFIG, else in-cluster, else ~/.kube/config]'
            cand --context 'Context of the kubeconfig [default: its current-context]'
            cand --as 'Do all this as another user, where the Role allows to impersonate it [default: the kubeconfig''s]'
            cand --request-timeout 'How long one request may take; can only lower it [default: half the renew deadline, 1s to 10s]'
            cand --events 'Tell of each change of leader in Kubernetes Events at the lock, where the Role allows it; on by default'
            cand --http 'Answer over HTTP at this address: /livez, /readyz, /leader and /metrics. PORT: on the loopback; :PORT: on all addresses; IP:PORT, [IP]:PORT [default: off]'
            cand --pod-label 'Put this label on our own pod (POD_NAME, else the host name) while we lead, so that a Service can select the leader [default: none]'
            cand --on-new-leader 'Run CMD for each leader seen, ours and others'', with its identity in LEADER_ELECTION_LEADER (empty: none); split into words, no shell, 30s at most'
            cand --on-stopped-leading 'Run CMD after each term of ours, when its processes are gone and the lock is given back, with the reason in LEADER_ELECTION_REASON: exited, stopped, stepped-down, lost or failed'
            cand --state-file 'Keep a file that says whether we lead, and until when; for `leader-run assert` in the child or a script'
            cand --log-format 'Messages on standard error as text or json'
            cand --resume 'Take over at once a lock that our own identity already holds; only where something else guarantees that the earlier process tree is dead (a container restart)'
            cand --wait-all 'When the child has exited, wait for its descendants instead of stopping them'
            cand --pid-namespace 'Run the child and its descendants in a PID namespace of their own, with which all of them die; needs the rights of root (CAP_SYS_ADMIN)'
            cand --no-crash-release 'When leader-run is killed, leave the lock to expire, rather than have the guard give it back when the child''s processes are gone'
            cand --no-events 'Leave no events'
            cand -v 'Say more'
            cand --verbose 'Say more'
            cand -q 'Say only what is an error'
            cand --quiet 'Say only what is an error'
            cand -h 'Print this help, with what the values given mean'
            cand --help 'Print this help, with what the values given mean'
            cand -V 'Print version'
            cand --version 'Print version'
            cand status 'Who holds the lock, and until when'
            cand check 'Whether a run with these options could do its work, and what it needs'
            cand assert 'Whether the lock is held now, from the state file alone'
        }
        &'leader-run;status'= {
            cand --lock 'Where the lock lives: lease (a Kubernetes Lease), configmap or endpoints (older locks), configmapsleases or endpointsleases (both at once, on the way to leases), file (this machine, no cluster)'
            cand -n 'Namespace of the lock [default: the kubeconfig context''s, else the service account''s; file: default]'
            cand --namespace 'Namespace of the lock [default: the kubeconfig context''s, else the service account''s; file: default]'
            cand --ns 'Namespace of the lock [default: the kubeconfig context''s, else the service account''s; file: default]'
            cand --name 'Name of the lock [default: COMMAND''s base name]'
            cand --lock-dir 'Where --lock file keeps its records [default: /tmp/leader-run-<uid>]'
            cand --kubeconfig 'Kubeconfig file [default: KUBECONFIG, else in-cluster, else ~/.kube/config]'
            cand --context 'Context of the kubeconfig [default: its current-context]'
            cand --as 'Do all this as another user, where the Role allows to impersonate it [default: the kubeconfig''s]'
            cand --request-timeout 'How long one request may take; can only lower it [default: half the renew deadline, 1s to 10s]'
            cand -o 'As text, json or name (the holder''s identity only)'
            cand --output 'As text, json or name (the holder''s identity only)'
            cand --watch 'Go on, and print a line for each change but renewals'
            cand -h 'Print this help'
            cand --help 'Print this help'
        }
        &'leader-run;check'= {
            cand --lock 'Where the lock lives: lease (a Kubernetes Lease), configmap or endpoints (older locks), configmapsleases or endpointsleases (both at once, on the way to leases), file (this machine, no cluster)'
            cand -n 'Namespace of the lock [default: the kubeconfig context''s, else the service account''s; file: default]'
            cand --namespace 'Namespace of the lock [default: the kubeconfig context''s, else the service account''s; file: default]'
            cand --ns 'Namespace of the lock [default: the kubeconfig context''s, else the service account''s; file: default]'
            cand --name 'Name of the lock [default: COMMAND''s base name]'
            cand --lock-dir 'Where --lock file keeps its records [default: /tmp/leader-run-<uid>]'
            cand --identity 'Who we are; must be unique [default: POD_NAME or host name, and a random part]'
            cand --lease-duration 'How long a lock is valid after its last renewal (3s to 1h, whole seconds)'
            cand --renew-deadline 'The child is asked to stop when the lock could not be renewed for so long [default: 2/3 of the lease duration]'
            cand --retry-period 'How often the lock is renewed [default: 2/15 of the lease duration, between 1s and 2s]'
            cand -w 'Give up when not leading after so long; 0s tries once [default: wait forever]'
            cand --wait 'Give up when not leading after so long; 0s tries once [default: wait forever]'
            cand -s 'The signal that asks the child to stop'
            cand --stop-signal 'The signal that asks the child to stop'
            cand --stop-grace 'After a requested stop, how long until the child is killed; the lock is renewed all the while'
            cand --loss-grace 'After the loss of the lock, how long until the child is killed; 0s: at once [default: as long as is safe]'
            cand --on-lost 'After the loss of the lock: exit with the lost code, or rejoin (contend again)'
            cand --lost-exit-code 'Exit code when the lock was lost'
            cand --step-down-signal 'The signal that makes a leader stop the child, give the lock back and contend again after the retry period [default: none]'
            cand --kubeconfig 'Kubeconfig file [default: KUBECONFIG, else in-cluster, else ~/.kube/config]'
            cand --context 'Context of the kubeconfig [default: its current-context]'
            cand --as 'Do all this as another user, where the Role allows to impersonate it [default: the kubeconfig''s]'
            cand --request-timeout 'How long one request may take; can only lower it [default: half the renew deadline, 1s to 10s]'
            cand --events 'Tell of each change of leader in Kubernetes Events at the lock, where the Role allows it; on by default'
            cand --http 'Answer over HTTP at this address: /livez, /readyz, /leader and /metrics. PORT: on the loopback; :PORT: on all addresses; IP:PORT, [IP]:PORT [default: off]'
            cand --pod-label 'Put this label on our own pod (POD_NAME, else the host name) while we lead, so that a Service can select the leader [default: none]'
            cand --on-new-leader 'Run CMD for each leader seen, ours and others'', with its identity in LEADER_ELECTION_LEADER (empty: none); split into words, no shell, 30s at most'
            cand --on-stopped-leading 'Run CMD after each term of ours, when its processes are gone and the lock is given back, with the reason in LEADER_ELECTION_REASON: exited, stopped, stepped-down, lost or failed'
            cand --state-file 'Keep a file that says whether we lead, and until when; for `leader-run assert` in the child or a script'
            cand --log-format 'Messages on standard error as text or json'
            cand --resume 'Take over at once a lock that our own identity already holds; only where something else guarantees that the earlier process tree is dead (a container restart)'
            cand --wait-all 'When the child has exited, wait for its descendants instead of stopping them'
            cand --pid-namespace 'Run the child and its descendants in a PID namespace of their own, with which all of them die; needs the rights of root (CAP_SYS_ADMIN)'
            cand --no-crash-release 'When leader-run is killed, leave the lock to expire, rather than have the guard give it back when the child''s processes are gone'
            cand --no-events 'Leave no events'
            cand -v 'Say more'
            cand --verbose 'Say more'
            cand -q 'Say only what is an error'
            cand --quiet 'Say only what is an error'
            cand -h 'Print this help'
            cand --help 'Print this help'
        }
        &'leader-run;assert'= {
            cand --min-remaining 'Only if it is held for so much longer, even if it is not renewed'
            cand --state-file 'The state file [default: LEADER_RUN_STATE_FILE, else LEADER_ELECTION_STATE_FILE, which a child finds in its environment]'
            cand -h 'Print this help'
            cand --help 'Print this help'
        }
    ]
    $completions[$command]
}
