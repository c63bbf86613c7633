#!/bin/sh
# A node with a real kubelet, until standard input ends: the first process of mount and process id
# namespaces of its own, so that with it all ends that it started and all vanishes that it mounted.
#
#   kubelet.sh FOLDER CONTAINERD CONTAINERD_CONFIG CONTAINERD_SOCKET KUBELET KUBELET_FLAG...
set -eu
folder=$1 containerd=$2 config=$3 socket=$4
shift 4

mount --make-rshared /
# Kubelet and CNI plugins write to folders here that no option moves.
for fixed in /var/lib /var/log; do mount -t tmpfs bench "$fixed"; done
# The kubelet sets these for the whole machine, or does not start. Here it finds them as it wants them.
for wanted in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
	kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
	name=${wanted%=*}
	mkdir -p "$folder/sys/${name%/*}"
	echo "${wanted#*=}" >"$folder/sys/$name"
	mount --bind "$folder/sys/$name" "/proc/sys/$name"
done

"$containerd" --config "$config" </dev/null >"$folder/containerd.log" 2>&1 &
until [ -S "$socket" ]; do sleep 0.1; done
"$@" </dev/null >"$folder/kubelet.log" 2>&1 &
read -r _ || true
