// Command controlplane is etcd, kube-apiserver, kube-controller-manager and
// kube-scheduler in one binary: it is whichever of them its first argument
// names. One binary shares one build and one copy of the code on disk.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
)

const usage = "usage: controlplane etcd CONFIG-FILE | kube-apiserver … | kube-controller-manager … | kube-scheduler …"

func main() {
	if len(os.Args) < 2 {
		fail(usage)
	}
	name := os.Args[1]
	os.Args = append([]string{name}, os.Args[2:]...)
	var command *cobra.Command
	switch name {
	case "etcd":
		etcd(os.Args[1:])
		return
	case "kube-apiserver":
		command = apiserver.NewAPIServerCommand()
	case "kube-controller-manager":
		command = controllermanager.NewControllerManagerCommand()
	case "kube-scheduler":
		command = scheduler.NewSchedulerCommand()
	default:
		fail(usage)
	}
	os.Exit(cli.Run(command))
}

// etcd runs one member from a configuration file (etcd's own YAML) until a
// signal asks it to stop; the member is closed, so the next start is quick.
func etcd(args []string) {
	if len(args) != 1 {
		fail(usage)
	}
	config, err := embed.ConfigFromFile(args[0])
	if err != nil {
		fail("cannot read the etcd configuration: " + err.Error())
	}
	member, err := embed.StartEtcd(config)
	if err != nil {
		fail("cannot start etcd: " + err.Error())
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	select {
	case <-stop:
		member.Close()
	case err := <-member.Err():
		fail("etcd ended: " + err.Error())
	}
}

func fail(sentence string) {
	fmt.Fprintln(os.Stderr, sentence)
	os.Exit(1)
}
