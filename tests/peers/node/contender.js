'use strict'
// A contender on @codedependant/kubernetes-leader-election, as its README shows it.
//
// Its limits: it looks three times, at its start and after half and all of its lease duration, and from then on takes
// the lock only when the Lease is deleted, never when it is given back or expires. It watches all Leases of the
// namespace and acts on each event 2 s later. It renews RETRY_PERIOD after it has seen its own last write there, so
// every RETRY_PERIOD + 2 s; it knows no renew deadline, the first failure is a loss, and a request that hangs is none.
// Expiry is `renewTime` against its own wall clock, and the record's duration or its own. A Lease that it creates has
// neither duration nor transitions, a takeover does not count as a transition, and a release leaves no holder and no
// `renewTime`. A release that meets one of its own renewals is refused, and not tried again. Where it may not watch, it
// renews once and goes on leading.

const {once} = require('node:events')
const {spawn} = require('node:child_process')

const {env} = process
if (env.LOCK !== 'lease') throw new Error('lease is the only lock that it knows')
// Without this it takes itself for the leader; where the API server is, the kubeconfig says.
env.KUBERNETES_SERVICE_HOST ??= 'as-in-a-pod'

let elector = null
let child = null
let stopping = false

// First of all, for what follows takes a while to load.
process.on('SIGTERM', () => stop())

const {Elector, EVENTS} = require('@codedependant/kubernetes-leader-election')

const log = {child: () => log}
for (const level of ['trace', 'debug', 'info', 'warn', 'error', 'fatal']) {
  log[level] = (...message) => console.error(new Date().toISOString(), level, ...message)
}

elector = new Elector({
  auto_close: false
, identity: env.IDENTITY
, lease_duration_sec: Number(env.LEASE_DURATION)
, lease_name: env.NAME
, log
, namespace: env.NAMESPACE
, renew_interval_ms: Number(env.RETRY_PERIOD) * 1000
})
elector.on(EVENTS.LEADERSHIP_ACQUIRED, () => {
  if (child || stopping) return // it may say so twice
  console.log('leading')
  const [command, ...args] = process.argv.slice(2)
  child = spawn(command, args, {stdio: 'inherit'})
  child.once('exit', () => stop())
})
elector.on(EVENTS.LEADERSHIP_LOST, () => stop({lost: true}))
elector.start()

async function stop({lost = false} = {}) {
  if (stopping) return
  stopping = true
  if (child && child.exitCode === null && child.signalCode === null) {
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
  if (!lost) await elector.stop()
  if (child) console.log('stopped')
  process.exit(lost ? 1 : 0)
}
