# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_leader_run_global_optspecs
    string join \n lock= n/namespace= name= lock-dir= identity= resume lease-duration= renew-deadline= retry-period= w/wait= s/stop-signal= stop-grace= loss-grace= wait-all pid-namespace no-crash-release on-lost= lost-exit-code= step-down-signal= kubeconfig= context= as= request-timeout= events= no-events http= pod-label= on-new-leader= on-stopped-leading= state-file= log-format= v/verbose q/quiet h/help V/version
end

function __fish_leader_run_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_leader_run_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_leader_run_using_subcommand
    set -l cmd (__fish_leader_run_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c leader-run -n "__fish_leader_run_needs_command" -l lock -d 'Where the lock lives: lease (a Kubernetes Lease), configmap or endpoints (older locks), configmapsleases or endpointsleases (both at once, on the way to leases), file (this machine, no cluster)' -r -f -a "lease\t''
configmap\t''
endpoints\t''
configmapsleases\t''
endpointsleases\t''
file\t''"
complete -c leader-run -n "__fish_leader_run_needs_command" -s n -l namespace -l ns -d 'Namespace of the lock [default: the kubeconfig context\'s, else the service account\'s; file: default]' -r
complete -c leader-run -n "__fish_leader_run_needs_command" -l name -d 'Name of the lock [default: COMMAND\'s base name]' -r
complete -c leader-run -n "__fish_leader_run_needs_command" -l lock-dir -d 'Where --lock file keeps its records [default: /tmp/leader-run-<uid>]' -r -f -a "(__fish_complete_directories)"
complete -c leader-run -n "__fish_leader_run_needs_command" -l identity -d 'Who we are; must be unique [default: POD_NAME or host name, and a random part]' -r
complete -c leader-run -n "__fish_leader_run_needs_command" -l lease-duration -d 'How long a lock is valid after its last renewal (3s to 1h, whole seconds)' -r
complete -c leader-run -n "__fish_leader_run_needs_command" -l renew-deadline -d 'The child is asked to stop when the lock could not be renewed for so long [default: 2/3 of the lease duration]' -r
complete -c leader-run -n "__fish_leader_run_needs_command" -l retry-period -d 'How often the lock is renewed [default: 2/15 of the lease duration, between 1s and 2s]' -r
complete -c leader-run -n "__fish_leader_run_needs_command" -s w -l wait -d 'Give up when not leading after so long; 0s tries once [default: wait forever]' -r
complete -c leader-run -n "__fish_leader_run_needs_command" -s s -l stop-signal -d 'The signal that asks the child to stop' -r -f -a "HUP\t''
INT\t''
QUIT\t''
ILL\t''
TRAP\t''
ABRT\t''
BUS\t''
FPE\t''
KILL\t''
USR1\t''
SEGV\t''
USR2\t''
PIPE\t''
ALRM\t''
TERM\t''
STKFLT\t''
CHLD\t''
CONT\t''
STOP\t''
TSTP\t''
TTIN\t''
TTOU\t''
URG\t''
XCPU\t''
XFSZ\t''
VTALRM\t''
PROF\t''
WINCH\t''
IO\t''
PWR\t''
SYS\t''"
complete -c leader-run -n "__fish_leader_run_needs_command" -l stop-grace -d 'After a requested stop, how long until the child is killed; the lock is renewed all the while' -r
complete -c leader-run -n "__fish_leader_run_needs_command" -l loss-grace -d 'After the loss of the lock, how long until the child is killed; 0s: at once [default: as long as is safe]' -r
complete -c leader-run -n "__fish_leader_run_needs_command" -l on-lost -d 'After the loss of the lock: exit with the lost code, or rejoin (contend again)' -r -f -a "exit\t''
rejoin\t''"
complete -c leader-run -n "__fish_leader_run_needs_command" -l lost-exit-code -d 'Exit code when the lock was lost' -r
complete -c leader-run -n "__fish_leader_run_needs_command" -l step-down-signal -d 'The signal that makes a leader stop the child, give the lock back and contend again after the retry period [default: none]' -r -f -a "HUP\t''
QUIT\t''
USR1\t''
USR2\t''
ALRM\t''
CONT\t''
URG\t''
VTALRM\t''
PROF\t''
WINCH\t''
IO\t''
PWR\t''"
complete -c leader-run -n "__fish_leader_run_needs_command" -l kubeconfig -d 'Kubeconfig file [default: KUBECONFIG, else in-cluster, else ~/.kube/config]' -r -F
complete -c leader-run -n "__fish_leader_run_needs_command" -l context -d 'Context of the kubeconfig [default: its current-context]' -r
complete -c leader-run -n "__fish_leader_run_needs_command" -l as -d 'Do all this as another user, where the Role allows to impersonate it [default: the kubeconfig\'s]' -r
complete -c leader-run -n "__fish_leader_run_needs_command" -l request-timeout -d 'How long one request may take; can only lower it [default: half the renew deadline, 1s to 10s]' -r
complete -c leader-run -n "__fish_leader_run_needs_command" -l events -d 'Tell of each change of leader in Kubernetes Events at the lock, where the Role allows it; on by default' -r -f -a "true\t''
false\t''"
complete -c leader-run -n "__fish_leader_run_needs_command" -l http -d 'Answer over HTTP at this address: /livez, /readyz, /leader and /metrics. PORT: on the loopback; :PORT: on all addresses; IP:PORT, [IP]:PORT [default: off]' -r
complete -c leader-run -n "__fish_leader_run_needs_command" -l pod-label -d 'Put this label on our own pod (POD_NAME, else the host name) while we lead, so that a Service can select the leader [default: none]' -r
complete -c leader-run -n "__fish_leader_run_needs_command" -l on-new-leader -d 'Run CMD for each leader seen, ours and others\', with its identity in LEADER_ELECTION_LEADER (empty: none); split into words, no shell, 30s at most' -r -f -a "(__fish_complete_command)"
complete -c leader-run -n "__fish_leader_run_needs_command" -l on-stopped-leading -d 'Run CMD after each term of ours, when its processes are gone and the lock is given back, with the reason in LEADER_ELECTION_REASON: exited, stopped, stepped-down, lost or failed' -r -f -a "(__fish_complete_command)"
complete -c leader-run -n "__fish_leader_run_needs_command" -l state-file -d 'Keep a file that says whether we lead, and until when; for `leader-run assert` in the child or a script' -r -F
complete -c leader-run -n "__fish_leader_run_needs_command" -l log-format -d 'Messages on standard error as text or json' -r -f -a "text\t''
json\t''"
complete -c leader-run -n "__fish_leader_run_needs_command" -l resume -d 'Take over at once a lock that our own identity already holds; only where something else guarantees that the earlier process tree is dead (a container restart)'
complete -c leader-run -n "__fish_leader_run_needs_command" -l wait-all -d 'When the child has exited, wait for its descendants instead of stopping them'
complete -c leader-run -n "__fish_leader_run_needs_command" -l pid-namespace -d 'Run the child and its descendants in a PID namespace of their own, with which all of them die; needs the rights of root (CAP_SYS_ADMIN)'
complete -c leader-run -n "__fish_leader_run_needs_command" -l no-crash-release -d 'When leader-run is killed, leave the lock to expire, rather than have the guard give it back when the child\'s processes are gone'
complete -c leader-run -n "__fish_leader_run_needs_command" -l no-events -d 'Leave no events'
complete -c leader-run -n "__fish_leader_run_needs_command" -s v -l verbose -d 'Say more'
complete -c leader-run -n "__fish_leader_run_needs_command" -s q -l quiet -d 'Say only what is an error'
complete -c leader-run -n "__fish_leader_run_needs_command" -s h -l help -d 'Print this help, with what the values given mean'
complete -c leader-run -n "__fish_leader_run_needs_command" -s V -l version -d 'Print version'
complete -c leader-run -n "__fish_leader_run_needs_command" -f -a "status" -d 'Who holds the lock, and until when'
complete -c leader-run -n "__fish_leader_run_needs_command" -f -a "check" -d 'Whether a run with these options could do its work, and what it needs'
complete -c leader-run -n "__fish_leader_run_needs_command" -f -a "assert" -d 'Whether the lock is held now, from the state file alone'
complete -c leader-run -n "__fish_leader_run_using_subcommand status" -l lock -d 'Where the lock lives: lease (a Kubernetes Lease), configmap or endpoints (older locks), configmapsleases or endpointsleases (both at once, on the way to leases), file (this machine, no cluster)' -r -f -a "lease\t''
configmap\t''
endpoints\t''
configmapsleases\t''
endpointsleases\t''
file\t''"
complete -c leader-run -n "__fish_leader_run_using_subcommand status" -s n -l namespace -l ns -d 'Namespace of the lock [default: the kubeconfig context\'s, else the service account\'s; file: default]' -r
complete -c leader-run -n "__fish_leader_run_using_subcommand status" -l name -d 'Name of the lock [default: COMMAND\'s base name]' -r
complete -c leader-run -n "__fish_leader_run_using_subcommand status" -l lock-dir -d 'Where --lock file keeps its records [default: /tmp/leader-run-<uid>]' -r -f -a "(__fish_complete_directories)"
complete -c leader-run -n "__fish_leader_run_using_subcommand status" -l kubeconfig -d 'Kubeconfig file [default: KUBECONFIG, else in-cluster, else ~/.kube/config]' -r -F
complete -c leader-run -n "__fish_leader_run_using_subcommand status" -l context -d 'Context of the kubeconfig [default: its current-context]' -r
complete -c leader-run -n "__fish_leader_run_using_subcommand status" -l as -d 'Do all this as another user, where the Role allows to impersonate it [default: the kubeconfig\'s]' -r
complete -c leader-run -n "__fish_leader_run_using_subcommand status" -l request-timeout -d 'How long one request may take; can only lower it [default: half the renew deadline, 1s to 10s]' -r
complete -c leader-run -n "__fish_leader_run_using_subcommand status" -s o -l output -d 'As text, json or name (the holder\'s identity only)' -r -f -a "text\t''
json\t''
name\t''"
complete -c leader-run -n "__fish_leader_run_using_subcommand status" -l watch -d 'Go on, and print a line for each change but renewals'
complete -c leader-run -n "__fish_leader_run_using_subcommand status" -s h -l help -d 'Print this help'
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -l lock -d 'Where the lock lives: lease (a Kubernetes Lease), configmap or endpoints (older locks), configmapsleases or endpointsleases (both at once, on the way to leases), file (this machine, no cluster)' -r -f -a "lease\t''
configmap\t''
endpoints\t''
configmapsleases\t''
endpointsleases\t''
file\t''"
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -s n -l namespace -l ns -d 'Namespace of the lock [default: the kubeconfig context\'s, else the service account\'s; file: default]' -r
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -l name -d 'Name of the lock [default: COMMAND\'s base name]' -r
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -l lock-dir -d 'Where --lock file keeps its records [default: /tmp/leader-run-<uid>]' -r -f -a "(__fish_complete_directories)"
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -l identity -d 'Who we are; must be unique [default: POD_NAME or host name, and a random part]' -r
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -l lease-duration -d 'How long a lock is valid after its last renewal (3s to 1h, whole seconds)' -r
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -l renew-deadline -d 'The child is asked to stop when the lock could not be renewed for so long [default: 2/3 of the lease duration]' -r
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -l retry-period -d 'How often the lock is renewed [default: 2/15 of the lease duration, between 1s and 2s]' -r
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -s w -l wait -d 'Give up when not leading after so long; 0s tries once [default: wait forever]' -r
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -s s -l stop-signal -d 'The signal that asks the child to stop' -r -f -a "HUP\t''
INT\t''
QUIT\t''
ILL\t''
TRAP\t''
ABRT\t''
BUS\t''
FPE\t''
KILL\t''
USR1\t''
SEGV\t''
USR2\t''
PIPE\t''
ALRM\t''
TERM\t''
STKFLT\t''
CHLD\t''
CONT\t''
STOP\t''
TSTP\t''
TTIN\t''
TTOU\t''
URG\t''
XCPU\t''
XFSZ\t''
VTALRM\t''
PROF\t''
WINCH\t''
IO\t''
PWR\t''
SYS\t''"
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -l stop-grace -d 'After a requested stop, how long until the child is killed; the lock is renewed all the while' -r
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -l loss-grace -d 'After the loss of the lock, how long until the child is killed; 0s: at once [default: as long as is safe]' -r
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -l on-lost -d 'After the loss of the lock: exit with the lost code, or rejoin (contend again)' -r -f -a "exit\t''
rejoin\t''"
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -l lost-exit-code -d 'Exit code when the lock was lost' -r
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -l step-down-signal -d 'The signal that makes a leader stop the child, give the lock back and contend again after the retry period [default: none]' -r -f -a "HUP\t''
QUIT\t''
USR1\t''
USR2\t''
ALRM\t''
CONT\t''
URG\t''
VTALRM\t''
PROF\t''
WINCH\t''
IO\t''
PWR\t''"
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -l kubeconfig -d 'Kubeconfig file [default: KUBECONFIG, else in-cluster, else ~/.kube/config]' -r -F
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -l context -d 'Context of the kubeconfig [default: its current-context]' -r
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -l as -d 'Do all this as another user, where the Role allows to impersonate it [default: the kubeconfig\'s]' -r
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -l request-timeout -d 'How long one request may take; can only lower it [default: half the renew deadline, 1s to 10s]' -r
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -l events -d 'Tell of each change of leader in Kubernetes Events at the lock, where the Role allows it; on by default' -r -f -a "true\t''
false\t''"
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -l http -d 'Answer over HTTP at this address: /livez, /readyz, /leader and /metrics. PORT: on the loopback; :PORT: on all addresses; IP:PORT, [IP]:PORT [default: off]' -r
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -l pod-label -d 'Put this label on our own pod (POD_NAME, else the host name) while we lead, so that a Service can select the leader [default: none]' -r
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -l on-new-leader -d 'Run CMD for each leader seen, ours and others\', with its identity in LEADER_ELECTION_LEADER (empty: none); split into words, no shell, 30s at most' -r -f -a "(__fish_complete_command)"
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -l on-stopped-leading -d 'Run CMD after each term of ours, when its processes are gone and the lock is given back, with the reason in LEADER_ELECTION_REASON: exited, stopped, stepped-down, lost or failed' -r -f -a "(__fish_complete_command)"
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -l state-file -d 'Keep a file that says whether we lead, and until when; for `leader-run assert` in the child or a script' -r -F
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -l log-format -d 'Messages on standard error as text or json' -r -f -a "text\t''
json\t''"
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -l resume -d 'Take over at once a lock that our own identity already holds; only where something else guarantees that the earlier process tree is dead (a container restart)'
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -l wait-all -d 'When the child has exited, wait for its descendants instead of stopping them'
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -l pid-namespace -d 'Run the child and its descendants in a PID namespace of their own, with which all of them die; needs the rights of root (CAP_SYS_ADMIN)'
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -l no-crash-release -d 'When leader-run is killed, leave the lock to expire, rather than have the guard give it back when the child\'s processes are gone'
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -l no-events -d 'Leave no events'
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -s v -l verbose -d 'Say more'
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -s q -l quiet -d 'Say only what is an error'
complete -c leader-run -n "__fish_leader_run_using_subcommand check" -s h -l help -d 'Print this help'
complete -c leader-run -n "__fish_leader_run_using_subcommand assert" -l min-remaining -d 'Only if it is held for so much longer, even if it is not renewed' -r
complete -c leader-run -n "__fish_leader_run_using_subcommand assert" -l state-file -d 'The state file [default: LEADER_RUN_STATE_FILE, else LEADER_ELECTION_STATE_FILE, which a child finds in its environment]' -r -F
complete -c leader-run -n "__fish_leader_run_using_subcommand assert" -s h -l help -d 'Print this help'

# Instead of the one above, which fails where an option lacks its value. A question is always the first word.
function __fish_leader_run_needs_command
    set -l words (commandline -opc)
    contains -- "$words[2]" status check assert
    or return 0
    echo $words[2]
    return 1
end

# What follows -- is a command line of its own, as after sudo.
function __leader_run_command
    set -l words (commandline -opc)
    set -l at (contains -i -- -- $words)
    complete -C (string join ' ' -- (string escape -- $words[(math $at + 1)..-1]) (commandline -ct))
end
complete -c leader-run -n 'contains -- -- (commandline -opc)' -x -a '(__leader_run_command)'
