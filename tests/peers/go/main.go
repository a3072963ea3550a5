// A contender on client-go's leader election, used as client-go's own example does.
//
// It compiles against every client-go from 0.23 on; a .mod file chooses one.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"
)

func main() {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		klog.Fatal(err)
	}
	client := kubernetes.NewForConfigOrDie(config)
	lock, err := resourcelock.New(lockType(), os.Getenv("NAMESPACE"), os.Getenv("NAME"), client.CoreV1(),
		client.CoordinationV1(), resourcelock.ResourceLockConfig{Identity: os.Getenv("IDENTITY")})
	if err != nil {
		klog.Fatal(err)
	}

	ctx, cancel := context.WithCancel(context.Background())
	child := child{ended: make(chan struct{})}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM)
	go func() {
		select {
		case <-asked:
		case <-child.ended:
		}
		// What the lock protects is over before the library may release it.
		child.kill()
		cancel()
	}()

	code := 0
	leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
		Lock:            lock,
		ReleaseOnCancel: true,
		LeaseDuration:   seconds("LEASE_DURATION"),
		RenewDeadline:   seconds("RENEW_DEADLINE"),
		RetryPeriod:     seconds("RETRY_PERIOD"),
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { child.start() },
			OnStoppedLeading: func() {
				if ctx.Err() == nil {
					code = 1
				}
				child.kill()
			},
		},
	})
	fmt.Println("stopped")
	os.Exit(code)
}

// lockType is client-go's word for it.
func lockType() string {
	switch name := os.Getenv("LOCK"); name {
	case "lease", "configmap":
		return name + "s"
	default:
		return name
	}
}

func seconds(name string) time.Duration {
	number, err := strconv.Atoi(os.Getenv(name))
	if err != nil {
		klog.Fatalf("%s: %v", name, err)
	}
	return time.Duration(number) * time.Second
}

// child is the command that runs while we lead.
type child struct {
	mutex sync.Mutex
	cmd   *exec.Cmd
	over  bool
	ended chan struct{}
}

func (c *child) start() {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.over {
		return
	}
	fmt.Println("leading")
	cmd := exec.Command(os.Args[1], os.Args[2:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		klog.Fatal(err)
	}
	c.cmd = cmd
	go func() {
		_ = cmd.Wait()
		close(c.ended)
	}()
}

// kill returns when the child is gone; none is started after it.
func (c *child) kill() {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.over = true
	if c.cmd != nil {
		_ = c.cmd.Process.Kill()
		<-c.ended
	}
}
