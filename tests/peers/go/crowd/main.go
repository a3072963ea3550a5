// Many contenders on client-go's leader election in one process, for the benchmark of what they cost an API
// server: each has a client and a connection of its own, and none has a child.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"
)

func main() {
	for number := range whole("CROWD") {
		go contend(fmt.Sprintf("crowd-%d", number))
		time.Sleep(4 * time.Millisecond)
	}
	fmt.Println("started")
	select {}
}

func contend(identity string) {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		klog.Fatal(err)
	}
	// Clients of the same configuration would share a connection.
	config.Dial = (&net.Dialer{}).DialContext
	client := kubernetes.NewForConfigOrDie(config)
	lock, err := resourcelock.New(resourcelock.LeasesResourceLock, os.Getenv("NAMESPACE"), os.Getenv("NAME"),
		client.CoreV1(), client.CoordinationV1(), resourcelock.ResourceLockConfig{Identity: identity})
	if err != nil {
		klog.Fatal(err)
	}
	leaderelection.RunOrDie(context.Background(), leaderelection.LeaderElectionConfig{
		Lock:            lock,
		ReleaseOnCancel: true,
		LeaseDuration:   time.Duration(whole("LEASE_DURATION")) * time.Second,
		RenewDeadline:   time.Duration(whole("RENEW_DEADLINE")) * time.Second,
		RetryPeriod:     time.Duration(whole("RETRY_PERIOD")) * time.Second,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { fmt.Println("leading") },
			OnStoppedLeading: func() { klog.Fatal("the leader of the crowd has lost its lock") },
		},
	})
}

func whole(name string) int {
	number, err := strconv.Atoi(os.Getenv(name))
	if err != nil {
		klog.Fatalf("%s: %v", name, err)
	}
	return number
}
