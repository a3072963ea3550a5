import io.fabric8.kubernetes.client.KubernetesClientBuilder;
import io.fabric8.kubernetes.client.extended.leaderelection.LeaderCallbacks;
import io.fabric8.kubernetes.client.extended.leaderelection.LeaderElectionConfigBuilder;
import io.fabric8.kubernetes.client.extended.leaderelection.resourcelock.LeaseLock;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;

/**
 * A contender on fabric8's LeaderElector, as its examples show it.
 *
 * <p>Its limits: expiry is {@code renewTime} and the record's duration against its own wall clock; a release leaves
 * its own name in the record, with a duration of a second; a record without times or duration ends it with an
 * exception, and nobody is told. It looks at its renew deadline only between two requests.
 */
final class Contender {
  private static final CompletableFuture<Boolean> LOST = new CompletableFuture<>();
  private static Process child;
  private static boolean stopping;

  public static void main(String[] command) {
    if (!setting("LOCK").equals("lease")) {
      throw new IllegalArgumentException("of its locks, others understand only its LeaseLock");
    }
    // SIGTERM runs this; the main thread does the rest, and ends the process meanwhile.
    Thread main = Thread.currentThread();
    Runtime.getRuntime().addShutdownHook(new Thread(() -> {
      LOST.complete(false);
      waitFor(main::join);
    }));

    var elector = new KubernetesClientBuilder().build().leaderElector()
        .withConfig(new LeaderElectionConfigBuilder()
            .withReleaseOnCancel()
            .withName("contender")
            .withLeaseDuration(seconds("LEASE_DURATION"))
            .withRenewDeadline(seconds("RENEW_DEADLINE"))
            .withRetryPeriod(seconds("RETRY_PERIOD"))
            .withLock(new LeaseLock(setting("NAMESPACE"), setting("NAME"), setting("IDENTITY")))
            .withLeaderCallbacks(new LeaderCallbacks(
                () -> start(command),
                () -> {
                  kill();
                  LOST.complete(true);
                },
                leader -> System.err.println("leader: " + leader)))
            .build())
        .build();
    CompletableFuture<?> election = elector.start();

    boolean lost = LOST.join();
    boolean led = kill();
    // Releases the lock, where it is still ours.
    election.cancel(true);
    if (led) {
      System.out.println("stopped");
    }
    Runtime.getRuntime().halt(lost ? 1 : 0);
  }

  private static synchronized void start(String[] command) {
    if (stopping) {
      return;
    }
    System.out.println("leading");
    try {
      child = new ProcessBuilder(command).inheritIO().start();
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
    child.onExit().thenRun(Contender::ended);
  }

  private static synchronized void ended() {
    if (!stopping) {
      LOST.complete(false);
    }
  }

  /** Whether there was a child. */
  private static synchronized boolean kill() {
    stopping = true;
    if (child == null) {
      return false;
    }
    child.destroyForcibly();
    waitFor(child::waitFor);
    return true;
  }

  private interface Wait {
    void run() throws InterruptedException;
  }

  private static void waitFor(Wait wait) {
    try {
      wait.run();
    } catch (InterruptedException error) {
      throw new IllegalStateException(error);
    }
  }

  private static String setting(String name) {
    String value = System.getenv(name);
    if (value == null) {
      throw new IllegalArgumentException(name + " has to be set");
    }
    return value;
  }

  private static Duration seconds(String name) {
    return Duration.ofSeconds(Long.parseLong(setting(name)));
  }
}
