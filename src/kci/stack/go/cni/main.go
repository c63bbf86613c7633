// Command kci-cni is the CNI plugin of a local machine. It does no wiring: it
// passes the runtime's question to the kcilet's network driver over a unix
// socket and prints the answer, so a pod costs two quick starts of a small
// program. Called by the name "loopback" it does nothing, because the driver
// brings lo up. Source of the protocol: containernetworking/cni SPEC.md 0.3.1.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"
)

const (
	// The runtime waits for us, and the driver is on this machine.
	dialTimeout   = 2 * time.Second
	answerTimeout = 30 * time.Second
	maxInputBytes = 1 << 20

	// Error codes of the CNI specification.
	codeBadEnvironment = 4
	codeBadInput       = 6
	codeBadConfig      = 7
	codeTryAgain       = 11
	codeDriver         = 100
)

const versions = `{"cniVersion":"0.3.1","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1"]}`

type config struct {
	CNIVersion string `json:"cniVersion"`
	Socket     string `json:"socket"`
}

// request is one JSON line to the driver; kcilet/drivers/network/server.py reads it.
type request struct {
	Command     string `json:"command"`
	ContainerID string `json:"container_id"`
	NetNS       string `json:"netns"`
	IfName      string `json:"ifname"`
	Args        string `json:"args"`
}

type answer struct {
	Result json.RawMessage `json:"result"`
	Error  string          `json:"error"`
}

// failure is printed as the CNI error object.
type failure struct {
	CNIVersion string `json:"cniVersion"`
	Code       int    `json:"code"`
	Message    string `json:"msg"`
	Details    string `json:"details,omitempty"`
}

func (f *failure) Error() string { return f.Message }

func main() {
	output, err := run(filepath.Base(os.Args[0]), os.Stdin)
	if err != nil {
		var known *failure
		if !errors.As(err, &known) {
			known = &failure{Code: codeDriver, Message: err.Error()}
		}
		known.CNIVersion = "0.3.1"
		text, _ := json.Marshal(known)
		fmt.Println(string(text))
		os.Exit(1)
	}
	fmt.Println(output)
}

func run(name string, stdin io.Reader) (string, error) {
	command := os.Getenv("CNI_COMMAND")
	if command == "VERSION" {
		return versions, nil
	}
	if command != "ADD" && command != "DEL" && command != "CHECK" {
		return "", &failure{Code: codeBadEnvironment, Message: fmt.Sprintf("cannot serve CNI_COMMAND %q", command)}
	}
	input, err := io.ReadAll(io.LimitReader(stdin, maxInputBytes))
	if err != nil {
		return "", &failure{Code: codeBadInput, Message: "cannot read the network configuration", Details: err.Error()}
	}
	var conf config
	if err := json.Unmarshal(input, &conf); err != nil {
		return "", &failure{Code: codeBadInput, Message: "cannot read the network configuration", Details: err.Error()}
	}
	if name == "loopback" {
		return loopback(command), nil
	}
	if conf.Socket == "" {
		return "", &failure{Code: codeBadConfig, Message: "cannot reach the kcilet: the network configuration has no \"socket\""}
	}
	if command == "CHECK" {
		return "", nil
	}
	return ask(conf.Socket, request{
		Command:     command,
		ContainerID: os.Getenv("CNI_CONTAINERID"),
		NetNS:       os.Getenv("CNI_NETNS"),
		IfName:      os.Getenv("CNI_IFNAME"),
		Args:        os.Getenv("CNI_ARGS"),
	})
}

// loopback answers as the reference plugin does; DEL and CHECK print nothing.
func loopback(command string) string {
	if command != "ADD" {
		return ""
	}
	result := map[string]any{
		"cniVersion": "0.3.1",
		"interfaces": []any{map[string]any{
			"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": os.Getenv("CNI_NETNS"),
		}},
		"ips": []any{map[string]any{"version": "4", "interface": 0, "address": "127.0.0.1/8"}},
		"dns": map[string]any{},
	}
	text, _ := json.Marshal(result)
	return string(text)
}

// ask sends one line to the driver and returns the result it answers.
func ask(socket string, question request) (string, error) {
	connection, err := net.DialTimeout("unix", socket, dialTimeout)
	if err != nil && question.Command == "DEL" {
		// The link dies with the pod's network namespace, so a pod can end
		// while the kcilet is away.
		return "", nil
	}
	if err != nil {
		return "", &failure{Code: codeTryAgain, Message: "cannot reach the kcilet's network driver; is the kcilet running?", Details: err.Error()}
	}
	defer connection.Close()
	if err := connection.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return "", err
	}
	line, err := json.Marshal(question)
	if err != nil {
		return "", err
	}
	if _, err := connection.Write(append(line, '\n')); err != nil {
		return "", &failure{Code: codeTryAgain, Message: "cannot ask the kcilet's network driver", Details: err.Error()}
	}
	text, err := bufio.NewReader(io.LimitReader(connection, maxInputBytes)).ReadBytes('\n')
	if err != nil {
		return "", &failure{Code: codeTryAgain, Message: "cannot read the answer of the kcilet's network driver", Details: err.Error()}
	}
	var reply answer
	if err := json.Unmarshal(text, &reply); err != nil {
		return "", &failure{Code: codeDriver, Message: "cannot read the answer of the kcilet's network driver", Details: err.Error()}
	}
	if reply.Error != "" {
		return "", &failure{Code: codeDriver, Message: reply.Error}
	}
	if question.Command != "ADD" {
		return "", nil
	}
	return string(reply.Result), nil
}
