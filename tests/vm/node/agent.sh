#!/bin/sh
# The lab's agent: runs the commands that come over the virtio-serial port (src/prove/agent.rs).
while :; do
	exec 3<>/dev/virtio-ports/rr.lab
	while read -r number coded <&3; do
		command=$(printf %s "$coded" | base64 -d)
		sh -c "$command" </dev/null >/run/rr-lab.out 2>&1
		code=$?
		{ base64 /run/rr-lab.out; echo "END $number $code"; } >&3
	done
	sleep 1
done
