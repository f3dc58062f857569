#!/usr/bin/env bash
# A Slurm cluster of this one machine, to try things on: nothing is installed, all of it lies in one folder.
#
#   scripts/slurm/one_node.sh start DIR [NODES]   start it; then: source DIR/environment
#   scripts/slurm/one_node.sh stop DIR            stop it, with whatever jobs it has
#
# For Debian and Ubuntu: its packages are fetched by apt-get and unpacked in DIR. Jobs share the cores with everything else, and no limit is kept but that of time.
set -euo pipefail

packages=(slurmd slurmctld slurm-client slurm-wlm-basic-plugins munge libmunge2 libhwloc15 liblua5.1-0)

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

unpack() {
    mkdir -p "$dir/packages" "$dir/unpacked"
    cd "$dir/packages"
    if ! apt-get download "${packages[@]}" >download.log 2>&1; then
        apt-get update >update.log 2>&1 # a fresh machine has no lists
        apt-get download "${packages[@]}" >download.log 2>&1
    fi
    for package in ./*.deb; do dpkg -x "$package" "$dir/unpacked"; done
    mv "$dir/unpacked" "$dir/system"
}

configure() {
    local libraries controller node cores memory
    libraries=$(cd "$dir"/system/usr/lib/*-linux-gnu && pwd)
    controller=$(free_port)
    cores=$(nproc)
    memory=$(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
    rm -rf "$dir/state" # jobs and nodes of an earlier start are forgotten
    mkdir -p "$dir/state" "$dir/log"
    dd if=/dev/urandom of="$dir/munge.key" bs=1 count=1024 2>/dev/null
    chmod 600 "$dir/munge.key"
    cat >"$dir/slurm.conf" <<CONF
ClusterName=one_node
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$controller
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
PluginDir=$libraries/slurm-wlm
# 5 s: so long a job that is put back into the queue waits at least
AuthInfo=socket=$dir/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=10
MinJobAge=300
SchedulerParameters=sched_interval=2,bf_interval=2
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/state/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/%n.pid
SlurmctldLogFile=$dir/log/slurmctld
SlurmdLogFile=$dir/log/%n
# more CPUs than there are: jobs are not kept apart here
SlurmdParameters=config_overrides
CONF
    for node in $(nodes); do
        echo "NodeName=$node NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$(free_port) CPUs=$((cores > 8 ? cores : 8)) RealMemory=$memory State=UNKNOWN"
    done >>"$dir/slurm.conf"
    echo "PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP" >>"$dir/slurm.conf"
    cat >"$dir/environment" <<ENVIRONMENT
export SLURM_CONF='$dir/slurm.conf'
export PATH='$dir/system/usr/bin':"\$PATH"
export LD_LIBRARY_PATH='$libraries:$libraries/slurm-wlm'
ENVIRONMENT
}

program() { # some versions of the packages have a longer name for it
    if [ -x "$dir/system/usr/sbin/$1" ]; then echo "$dir/system/usr/sbin/$1"; else echo "$dir/system/usr/sbin/$1-wlm"; fi
}

nodes() {
    local number
    if [ "$count" = 1 ]; then hostname -s; else for number in $(seq "$count"); do echo "node$number"; done; fi
}

start() {
    [ -d "$dir/system" ] || unpack
    configure
    # shellcheck disable=SC1091
    source "$dir/environment"
    local sbin=$dir/system/usr/sbin node
    mkdir -p "$dir/munge"
    "$sbin/munged" --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" --log-file="$dir/log/munged" --seed-file="$dir/munge/seed"
    "$(program slurmctld)" -f "$dir/slurm.conf"
    for node in $(nodes); do
        mkdir -p "$dir/state/$node"
        "$(program slurmd)" -f "$dir/slurm.conf" -d "$(program slurmstepd)" -N "$node"
    done
    for _ in $(seq 60); do
        if [ "$(sinfo --noheader --format=%t 2>/dev/null | sort -u)" = idle ]; then return; fi
        sleep 0.5
    done
    echo "the nodes did not come up; what they say is in $dir/log" >&2
    exit 1
}

stop() {
    local file pid
    if [ -f "$dir/environment" ]; then
        # shellcheck disable=SC1091
        source "$dir/environment"
        scancel --quiet --signal=KILL --full --user="$(id -un)" 2>/dev/null || true
    fi
    for file in "$dir"/*.pid; do
        [ -f "$file" ] || continue
        pid=$(cat "$file")
        kill "$pid" 2>/dev/null || continue
        for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    done
}

what=${1:-} dir=${2:-} count=${3:-1}
if [ -z "$dir" ]; then
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
case $what in
start | stop) "$what" ;;
*) echo "start or stop, not $what" >&2 && exit 2 ;;
esac
