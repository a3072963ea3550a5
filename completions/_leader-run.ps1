
using namespace System.Management.Automation
using namespace System.Management.Automation.Language

Register-ArgumentCompleter -Native -CommandName 'leader-run' -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)

    $commandElements = $commandAst.CommandElements
    $command = @(
        'leader-run'
        for ($i = 1; $i -lt $commandElements.Count; $i++) {
            $element = $commandElements[$i]
            if ($element -isnot [StringConstantExpressionAst] -or
                $element.StringConstantType -ne [StringConstantType]::BareWord -or
                $element.Value.StartsWith('-') -or
                $element.Value -eq $wordToComplete) {
                break
        }
        $element.Value
    }) -join ';'

    $completions = @(switch ($command) {
        'leader-run' {
            [CompletionResult]::new('--lock', '--lock', [CompletionResultType]::ParameterName, 'Where the lock lives: lease (a Kubernetes Lease), configmap or endpoints (older locks), configmapsleases or endpointsleases (both at once, on the way to leases), file (this machine, no cluster)')
            [CompletionResult]::new('-n', '-n', [CompletionResultType]::ParameterName, 'Namespace of the lock [default: the kubeconfig context''s, else the service account''s; file: default]')
            [CompletionResult]::new('--namespace', '--namespace', [CompletionResultType]::ParameterName, 'Namespace of the lock [default: the kubeconfig context''s, else the service account''s; file: default]')
            [CompletionResult]::new('--ns', '--ns', [CompletionResultType]::ParameterName, 'Namespace of the lock [default: the kubeconfig context''s, else the service account''s; file: default]')
            [CompletionResult]::new('--name', '--name', [CompletionResultType]::ParameterName, 'Name of the lock [default: COMMAND''s base name]')
            [CompletionResult]::new('--lock-dir', '--lock-dir', [CompletionResultType]::ParameterName, 'Where --lock file keeps its records [default: /tmp/leader-run-<uid>]')
            [CompletionResult]::new('--identity', '--identity', [CompletionResultType]::ParameterName, 'Who we are; must be unique [default: POD_NAME or host name, and a random part]')
            [CompletionResult]::new('--lease-duration', '--lease-duration', [CompletionResultType]::ParameterName, 'How long a lock is valid after its last renewal (3s to 1h, whole seconds)')
            [CompletionResult]::new('--renew-deadline', '--renew-deadline', [CompletionResultType]::ParameterName, 'The child is asked to stop when the lock could not be renewed for so long [default: 2/3 of the lease duration]')
            [CompletionResult]::new('--retry-period', '--retry-period', [CompletionResultType]::ParameterName, 'How often the lock is renewed [default: 2/15 of the lease duration, between 1s and 2s]')
            [CompletionResult]::new('-w', '-w', [CompletionResultType]::ParameterName, 'Give up when not leading after so long; 0s tries once [default: wait forever]')
            [CompletionResult]::new('--wait', '--wait', [CompletionResultType]::ParameterName, 'Give up when not leading after so long; 0s tries once [default: wait forever]')
            [CompletionResult]::new('-s', '-s', [CompletionResultType]::ParameterName, 'The signal that asks the child to stop')
            [CompletionResult]::new('--stop-signal', '--stop-signal', [CompletionResultType]::ParameterName, 'The signal that asks the child to stop')
            [CompletionResult]::new('--stop-grace', '--stop-grace', [CompletionResultType]::ParameterName, 'After a requested stop, how long until the child is killed; the lock is renewed all the while')
            [CompletionResult]::new('--loss-grace', '--loss-grace', [CompletionResultType]::ParameterName, 'After the loss of the lock, how long until the child is killed; 0s: at once [default: as long as is safe]')
            [CompletionResult]::new('--on-lost', '--on-lost', [CompletionResultType]::ParameterName, 'After the loss of the lock: exit with the lost code, or rejoin (contend again)')
            [CompletionResult]::new('--lost-exit-code', '--lost-exit-code', [CompletionResultType]::ParameterName, 'Exit code when the lock was lost')
            [CompletionResult]::new('--step-down-signal', '--step-down-signal', [CompletionResultType]::ParameterName, 'The signal that makes a leader stop the child, give the lock back and contend again after the retry period [default: none]')
            [CompletionResult]::new('--kubeconfig', '--kubeconfig', [CompletionResultType]::ParameterName, 'Kubeconfig file [default: KUBECONFIG, else in-cluster, else ~/.kube/config]')
            [CompletionResult]::new('--context', '--context', [CompletionResultType]::ParameterName, 'Context of the kubeconfig [default: its current-context]')
            [CompletionResult]::new('--as', '--as', [CompletionResultType]::ParameterName, 'Do all this as another user, where the Role allows to impersonate it [default: the kubeconfig''s]')
            [CompletionResult]::new('--request-timeout', '--request-timeout', [CompletionResultType]::ParameterName, 'How long one request may take; can only lower it [default: half the renew deadline, 1s to 10s]')
            [CompletionResult]::new('--events', '--events', [CompletionResultType]::ParameterName, 'Tell of each change of leader in Kubernetes Events at the lock, where the Role allows it; on by default')
            [CompletionResult]::new('--http', '--http', [CompletionResultType]::ParameterName, 'Answer over HTTP at this address: /livez, /readyz, /leader and /metrics. PORT: on the loopback; :PORT: on all addresses; IP:PORT, [IP]:PORT [default: off]')
            [CompletionResult]::new('--pod-label', '--pod-label', [CompletionResultType]::ParameterName, 'Put this label on our own pod (POD_NAME, else the host name) while we lead, so that a Service can select the leader [default: none]')
            [CompletionResult]::new('--on-new-leader', '--on-new-leader', [CompletionResultType]::ParameterName, 'Run CMD for each leader seen, ours and others'', with its identity in LEADER_ELECTION_LEADER (empty: none); split into words, no shell, 30s at most')
            [CompletionResult]::new('--on-stopped-leading', '--on-stopped-leading', [CompletionResultType]::ParameterName, 'Run CMD after each term of ours, when its processes are gone and the lock is given back, with the reason in LEADER_ELECTION_REASON: exited, stopped, stepped-down, lost or failed')
            [CompletionResult]::new('--state-file', '--state-file', [CompletionResultType]::ParameterName, 'Keep a file that says whether we lead, and until when; for `leader-run assert` in the child or a script')
            [CompletionResult]::new('--log-format', '--log-format', [CompletionResultType]::ParameterName, 'Messages on standard error as text or json')
            [CompletionResult]::new('--resume', '--resume', [CompletionResultType]::ParameterName, 'Take over at once a lock that our own identity already holds; only where something else guarantees that the earlier process tree is dead (a container restart)')
            [CompletionResult]::new('--wait-all', '--wait-all', [CompletionResultType]::ParameterName, 'When the child has exited, wait for its descendants instead of stopping them')
            [CompletionResult]::new('--pid-namespace', '--pid-namespace', [CompletionResultType]::ParameterName, 'Run the child and its descendants in a PID namespace of their own, with which all of them die; needs the rights of root (CAP_SYS_ADMIN)')
            [CompletionResult]::new('--no-crash-release', '--no-crash-release', [CompletionResultType]::ParameterName, 'When leader-run is killed, leave the lock to expire, rather than have the guard give it back when the child''s processes are gone')
            [CompletionResult]::new('--no-events', '--no-events', [CompletionResultType]::ParameterName, 'Leave no events')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Say more')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Say more')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say only what is an error')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say only what is an error')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print this help, with what the values given mean')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print this help, with what the values given mean')
            [CompletionResult]::new('-V', '-V ', [CompletionResultType]::ParameterName, 'Print version')
            [CompletionResult]::new('--version', '--version', [CompletionResultType]::ParameterName, 'Print version')
            [CompletionResult]::new('status', 'status', [CompletionResultType]::ParameterValue, 'Who holds the lock, and until when')
            [CompletionResult]::new('check', 'check', [CompletionResultType]::ParameterValue, 'Whether a run with these options could do its work, and what it needs')
            [CompletionResult]::new('assert', 'assert', [CompletionResultType]::ParameterValue, 'Whether the lock is held now, from the state file alone')
            break
        }
        'leader-run;status' {
            [CompletionResult]::new('--lock', '--lock', [CompletionResultType]::ParameterName, 'Where the lock lives: lease (a Kubernetes Lease), configmap or endpoints (older locks), configmapsleases or endpointsleases (both at once, on the way to leases), file (this machine, no cluster)')
            [CompletionResult]::new('-n', '-n', [CompletionResultType]::ParameterName, 'Namespace of the lock [default: the kubeconfig context''s, else the service account''s; file: default]')
            [CompletionResult]::new('--namespace', '--namespace', [CompletionResultType]::ParameterName, 'Namespace of the lock [default: the kubeconfig context''s, else the service account''s; file: default]')
            [CompletionResult]::new('--ns', '--ns', [CompletionResultType]::ParameterName, 'Namespace of the lock [default: the kubeconfig context''s, else the service account''s; file: default]')
            [CompletionResult]::new('--name', '--name', [CompletionResultType]::ParameterName, 'Name of the lock [default: COMMAND''s base name]')
            [CompletionResult]::new('--lock-dir', '--lock-dir', [CompletionResultType]::ParameterName, 'Where --lock file keeps its records [default: /tmp/leader-run-<uid>]')
            [CompletionResult]::new('--kubeconfig', '--kubeconfig', [CompletionResultType]::ParameterName, 'Kubeconfig file [default: KUBECONFIG, else in-cluster, else ~/.kube/config]')
            [CompletionResult]::new('--context', '--context', [CompletionResultType]::ParameterName, 'Context of the kubeconfig [default: its current-context]')
            [CompletionResult]::new('--as', '--as', [CompletionResultType]::ParameterName, 'Do all this as another user, where the Role allows to impersonate it [default: the kubeconfig''s]')
            [CompletionResult]::new('--request-timeout', '--request-timeout', [CompletionResultType]::ParameterName, 'How long one request may take; can only lower it [default: half the renew deadline, 1s to 10s]')
            [CompletionResult]::new('-o', '-o', [CompletionResultType]::ParameterName, 'As text, json or name (the holder''s identity only)')
            [CompletionResult]::new('--output', '--output', [CompletionResultType]::ParameterName, 'As text, json or name (the holder''s identity only)')
            [CompletionResult]::new('--watch', '--watch', [CompletionResultType]::ParameterName, 'Go on, and print a line for each change but renewals')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print this help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print this help')
            break
        }
        'leader-run;check' {
            [CompletionResult]::new('--lock', '--lock', [CompletionResultType]::ParameterName, 'Where the lock lives: lease (a Kubernetes Lease), configmap or endpoints (older locks), configmapsleases or endpointsleases (both at once, on the way to leases), file (this machine, no cluster)')
            [CompletionResult]::new('-n', '-n', [CompletionResultType]::ParameterName, 'Namespace of the lock [default: the kubeconfig context''s, else the service account''s; file: default]')
            [CompletionResult]::new('--namespace', '--namespace', [CompletionResultType]::ParameterName, 'Namespace of the lock [default: the kubeconfig context''s, else the service account''s; file: default]')
            [CompletionResult]::new('--ns', '--ns', [CompletionResultType]::ParameterName, 'Namespace of the lock [default: the kubeconfig context''s, else the service account''s; file: default]')
            [CompletionResult]::new('--name', '--name', [CompletionResultType]::ParameterName, 'Name of the lock [default: COMMAND''s base name]')
            [CompletionResult]::new('--lock-dir', '--lock-dir', [CompletionResultType]::ParameterName, 'Where --lock file keeps its records [default: /tmp/leader-run-<uid>]')
            [CompletionResult]::new('--identity', '--identity', [CompletionResultType]::ParameterName, 'Who we are; must be unique [default: POD_NAME or host name, and a random part]')
            [CompletionResult]::new('--lease-duration', '--lease-duration', [CompletionResultType]::ParameterName, 'How long a lock is valid after its last renewal (3s to 1h, whole seconds)')
            [CompletionResult]::new('--renew-deadline', '--renew-deadline', [CompletionResultType]::ParameterName, 'The child is asked to stop when the lock could not be renewed for so long [default: 2/3 of the lease duration]')
            [CompletionResult]::new('--retry-period', '--retry-period', [CompletionResultType]::ParameterName, 'How often the lock is renewed [default: 2/15 of the lease duration, between 1s and 2s]')
            [CompletionResult]::new('-w', '-w', [CompletionResultType]::ParameterName, 'Give up when not leading after so long; 0s tries once [default: wait forever]')
            [CompletionResult]::new('--wait', '--wait', [CompletionResultType]::ParameterName, 'Give up when not leading after so long; 0s tries once [default: wait forever]')
            [CompletionResult]::new('-s', '-s', [CompletionResultType]::ParameterName, 'The signal that asks the child to stop')
            [CompletionResult]::new('--stop-signal', '--stop-signal', [CompletionResultType]::ParameterName, 'The signal that asks the child to stop')
            [CompletionResult]::new('--stop-grace', '--stop-grace', [CompletionResultType]::ParameterName, 'After a requested stop, how long until the child is killed; the lock is renewed all the while')
            [CompletionResult]::new('--loss-grace', '--loss-grace', [CompletionResultType]::ParameterName, 'After the loss of the lock, how long until the child is killed; 0s: at once [default: as long as is safe]')
            [CompletionResult]::new('--on-lost', '--on-lost', [CompletionResultType]::ParameterName, 'After the loss of the lock: exit with the lost code, or rejoin (contend again)')
            [CompletionResult]::new('--lost-exit-code', '--lost-exit-code', [CompletionResultType]::ParameterName, 'Exit code when the lock was lost')
            [CompletionResult]::new('--step-down-signal', '--step-down-signal', [CompletionResultType]::ParameterName, 'The signal that makes a leader stop the child, give the lock back and contend again after the retry period [default: none]')
            [CompletionResult]::new('--kubeconfig', '--kubeconfig', [CompletionResultType]::ParameterName, 'Kubeconfig file [default: KUBECONFIG, else in-cluster, else ~/.kube/config]')
            [CompletionResult]::new('--context', '--context', [CompletionResultType]::ParameterName, 'Context of the kubeconfig [default: its current-context]')
            [CompletionResult]::new('--as', '--as', [CompletionResultType]::ParameterName, 'Do all this as another user, where the Role allows to impersonate it [default: the kubeconfig''s]')
            [CompletionResult]::new('--request-timeout', '--request-timeout', [CompletionResultType]::ParameterName, 'How long one request may take; can only lower it [default: half the renew deadline, 1s to 10s]')
            [CompletionResult]::new('--events', '--events', [CompletionResultType]::ParameterName, 'Tell of each change of leader in Kubernetes Events at the lock, where the Role allows it; on by default')
            [CompletionResult]::new('--http', '--http', [CompletionResultType]::ParameterName, 'Answer over HTTP at this address: /livez, /readyz, /leader and /metrics. PORT: on the loopback; :PORT: on all addresses; IP:PORT, [IP]:PORT [default: off]')
            [CompletionResult]::new('--pod-label', '--pod-label', [CompletionResultType]::ParameterName, 'Put this label on our own pod (POD_NAME, else the host name) while we lead, so that a Service can select the leader [default: none]')
            [CompletionResult]::new('--on-new-leader', '--on-new-leader', [CompletionResultType]::ParameterName, 'Run CMD for each leader seen, ours and others'', with its identity in LEADER_ELECTION_LEADER (empty: none); split into words, no shell, 30s at most')
            [CompletionResult]::new('--on-stopped-leading', '--on-stopped-leading', [CompletionResultType]::ParameterName, 'Run CMD after each term of ours, when its processes are gone and the lock is given back, with the reason in LEADER_ELECTION_REASON: exited, stopped, stepped-down, lost or failed')
            [CompletionResult]::new('--state-file', '--state-file', [CompletionResultType]::ParameterName, 'Keep a file that says whether we lead, and until when; for `leader-run assert` in the child or a script')
            [CompletionResult]::new('--log-format', '--log-format', [CompletionResultType]::ParameterName, 'Messages on standard error as text or json')
            [CompletionResult]::new('--resume', '--resume', [CompletionResultType]::ParameterName, 'Take over at once a lock that our own identity already holds; only where something else guarantees that the earlier process tree is dead (a container restart)')
            [CompletionResult]::new('--wait-all', '--wait-all', [CompletionResultType]::ParameterName, 'When the child has exited, wait for its descendants instead of stopping them')
            [CompletionResult]::new('--pid-namespace', '--pid-namespace', [CompletionResultType]::ParameterName, 'Run the child and its descendants in a PID namespace of their own, with which all of them die; needs the rights of root (CAP_SYS_ADMIN)')
            [CompletionResult]::new('--no-crash-release', '--no-crash-release', [CompletionResultType]::ParameterName, 'When leader-run is killed, leave the lock to expire, rather than have the guard give it back when the child''s processes are gone')
            [CompletionResult]::new('--no-events', '--no-events', [CompletionResultType]::ParameterName, 'Leave no events')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Say more')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Say more')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say only what is an error')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say only what is an error')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print this help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print this help')
            break
        }
        'leader-run;assert' {
            [CompletionResult]::new('--min-remaining', '--min-remaining', [CompletionResultType]::ParameterName, 'Only if it is held for so much longer, even if it is not renewed')
            [CompletionResult]::new('--state-file', '--state-file', [CompletionResultType]::ParameterName, 'The state file [default: LEADER_RUN_STATE_FILE, else LEADER_ELECTION_STATE_FILE, which a child finds in its environment]')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print this help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print this help')
            break
        }
    })

    $completions.Where{ $_.CompletionText -like "$wordToComplete*" } |
        Sort-Object -Property ListItemText
}
