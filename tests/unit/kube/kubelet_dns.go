// Asks the kubelet's own code for the resolver of each pod of a product: policy,
// host network, dnsConfig, cluster DNS, cluster domain and the machine's
// resolv.conf. Its answers are what test_dns.py compares ours with. Made anew by
//
//	cd src/kci/stack/go && go run ../../../../tests/unit/kube/kubelet_dns.go > ../../../../tests/unit/kube/kubelet_dns.json
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"sort"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/kubernetes/pkg/kubelet/network/dns"
)

type machine struct {
	Text     string   `json:"-"`
	Servers  []string `json:"servers"`
	Searches []string `json:"searches"`
	Options  []string `json:"options"`
}

type answer struct {
	Servers  []string `json:"servers"`
	Searches []string `json:"searches"`
	Options  []string `json:"options"`
	Notes    []string `json:"notes"`
}

type one struct {
	Policy      string
	HostNetwork bool
	Config      string
	ClusterDNS  string
	Domain      string
	Machine     string
}

func repeated(count int, format string) (made []string) {
	for number := range count {
		made = append(made, fmt.Sprintf(format, number))
	}
	return
}

func pointer(text string) *string { return &text }

var (
	policies = []string{"ClusterFirst", "ClusterFirstWithHostNet", "Default", "None", "Unheard"}
	configs  = map[string]*v1.PodDNSConfig{
		"none":  nil,
		"empty": {},
		"own": {
			Nameservers: []string{"192.0.2.7", "10.0.0.10", "192.0.2.7"},
			Searches:    []string{"corp.example", "dotted.example.", "corp.example.", "."},
			Options: []v1.PodDNSConfigOption{
				{Name: "ndots", Value: pointer("2")}, {Name: "edns0"}, {Name: "rotate", Value: pointer("")},
			},
		},
		"many": {Nameservers: repeated(5, "192.0.2.%d"), Searches: repeated(40, "s%d.example")},
		"long": {
			Searches: append([]string{strings.Repeat("x", 254), strings.Repeat("x", 253)},
				repeated(30, "%03d"+strings.Repeat("y", 97))...),
			Options: []v1.PodDNSConfigOption{{Name: "ndots"}, {Name: "timeout", Value: pointer("1")}},
		},
	}
	servers = map[string][]string{
		"none": {},
		"one":  {"10.0.0.10"},
		"both": {"2001:0db8:0:0::A", "10.0.0.10", "::ffff:10.0.0.11"},
		"many": {"10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"},
	}
	domains  = []string{"", "cluster.local"}
	machines = map[string]machine{
		"none": {},
		"plain": {
			Servers: []string{"192.0.2.53"}, Searches: []string{"corp.example"}, Options: []string{"rotate"},
		},
		"odd": {
			Servers:  []string{"fd00::53", "192.0.2.53", "192.0.2.53", "192.0.2.54"},
			Searches: []string{"a.example.", "a.example", ".", "b.example"},
			Options:  []string{"ndots:1", "timeout:3", "ndots:4", "edns0"},
		},
	}
)

func (m machine) file(folder, name string) string {
	if len(m.Servers) == 0 {
		return ""
	}
	text := ""
	for _, server := range m.Servers {
		text += "nameserver " + server + "\n"
	}
	text += "search " + strings.Join(m.Searches, " ") + "\noptions " + strings.Join(m.Options, " ") + "\n"
	path := folder + "/" + name
	must(os.WriteFile(path, []byte(text), 0o600))
	return path
}

func ask(this one, folder string) answer {
	recorder := record.NewFakeRecorder(16)
	var addresses []net.IP
	for _, server := range servers[this.ClusterDNS] {
		addresses = append(addresses, net.ParseIP(server))
	}
	configurer := dns.NewConfigurer(recorder, &v1.ObjectReference{Kind: "Node"}, []net.IP{net.ParseIP("192.0.2.1")},
		addresses, this.Domain, machines[this.Machine].file(folder, this.Machine))
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: types.UID("u-1")},
		Spec: v1.PodSpec{
			DNSPolicy: v1.DNSPolicy(this.Policy), DNSConfig: configs[this.Config].DeepCopy(), HostNetwork: this.HostNetwork,
		},
	}
	found, err := configurer.GetPodDNS(context.Background(), pod)
	must(err)
	// They come from a map: their order says nothing.
	sort.Strings(found.Options)
	made := answer{Servers: found.Servers, Searches: found.Searches, Options: found.Options}
	close(recorder.Events)
	for event := range recorder.Events {
		// Of the two of MissingClusterDNS the one that is the node's.
		if strings.HasPrefix(event, "Warning MissingClusterDNS kubelet") {
			continue
		}
		made.Notes = append(made.Notes, strings.TrimPrefix(event, "Warning "))
	}
	return made
}

func names[T any](of map[string]T) (found []string) {
	for name := range of {
		found = append(found, name)
	}
	sort.Strings(found)
	return
}

func main() {
	folder, err := os.MkdirTemp("", "kubelet-dns")
	must(err)
	defer os.RemoveAll(folder)
	// For each case, in the order of the loops, the number of its answer.
	var all []int
	var answers []json.RawMessage
	known := map[string]int{}
	for _, policy := range policies {
		for _, hostNetwork := range []bool{false, true} {
			for _, config := range names(configs) {
				for _, clusterDNS := range names(servers) {
					for _, domain := range domains {
						for _, machine := range names(machines) {
							this := one{policy, hostNetwork, config, clusterDNS, domain, machine}
							text, err := json.Marshal(ask(this, folder))
							must(err)
							if _, is := known[string(text)]; !is {
								known[string(text)] = len(answers)
								answers = append(answers, text)
							}
							all = append(all, known[string(text)])
						}
					}
				}
			}
		}
	}
	rows := func(head string, values any, last bool) {
		text, err := json.Marshal(values)
		must(err)
		// One row a line: a change of one shows as that.
		lines := strings.ReplaceAll(string(text), "},{", "},\n{")
		end := ",\n"
		if last {
			end = "\n"
		}
		fmt.Printf("%q:%s%s", head, lines, end)
	}
	fmt.Print("{\n")
	rows("policies", policies, false)
	rows("hostNetwork", []bool{false, true}, false)
	rows("configs", configs, false)
	rows("servers", servers, false)
	rows("domains", domains, false)
	rows("machines", machines, false)
	rows("answers", answers, false)
	rows("cases", all, true)
	fmt.Print("}\n")
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
