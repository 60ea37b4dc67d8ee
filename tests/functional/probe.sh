# Everything a builder can see of where it runs, as `## entry` and the lines under it. Only applets of
# busybox and questions of probe.c, and nothing that says which machine, store or moment it is. Owners are left out where they are root:
# what root is in a builder's user namespace depends on who runs Nix.
entry() { echo "## $1"; shift; "$@" 2>&1; }
fields() { grep -E "^($1):" /proc/self/status | tr '\t' ' '; }
nodes() { for node in "$@"; do stat -c '%n %F %a %t:%T' "$node"; done; }
tried() { "$@" > /dev/null 2>&1 && echo works || echo refused; }

entry environment sh -c 'env | grep -v -E "^(NIX_BUILD_CORES|SHLVL|_|out|tree|outputs|probe|program|input)=" | sort'
entry ids sh -c 'id -u; id -g; id -G; id -un; id -gn'
entry credentials fields 'Uid|Gid|Groups|NoNewPrivs|Seccomp'
entry capabilities fields 'Cap.*'
entry signals fields 'Sig(Blk|Ign|Cgt)|ShdPnd|SigPnd'
entry user-map sh -c 'cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups | tr -s " "'
entry limits sh -c 'cut -c1-70 /proc/self/limits | tr -s " "'
entry umask umask
entry nice cut -d' ' -f18,19 /proc/self/stat
entry personality cat /proc/self/personality
entry out-of-memory-score cat /proc/self/oom_score_adj
entry process sh -c 'echo $PPID; cut -d" " -f4-8 /proc/1/stat; tr "\0" "\n" < /proc/1/cmdline | head -1'
entry descriptors sh -c 'for fd in 0 1 2 3 4 5 6 7 8 9; do test -e /proc/1/fd/$fd && echo $fd; done; readlink /proc/1/fd/0; readlink /proc/1/fd/2'
entry terminal sh -c 'stty -a < /dev/pts/0 || echo none'
entry input-stream $program input
entry host-name sh -c 'hostname; cat /proc/sys/kernel/domainname'
entry machine uname -sm
entry time-zone sh -c 'date +%Z%z; ls /etc/localtime'
entry clock sh -c 'test "$(date +%s)" -gt 1790000000 && echo now'
entry root sh -c 'ls -A / | sort'
entry root-folders nodes / /bin /bin/sh /build /dev /etc /nix /nix/store /proc /tmp
entry build-folder sh -c 'pwd; ls -lnA . | cut -c1-40'
entry devices sh -c 'ls -A /dev | sort'
entry device-nodes nodes /dev/full /dev/null /dev/random /dev/tty /dev/urandom /dev/zero /dev/ptmx /dev/pts /dev/shm
entry device-links sh -c 'for link in fd stdin stdout stderr ptmx core; do echo $link $(readlink /dev/$link); done'
entry etc sh -c 'ls -A /etc | sort'
entry etc-files nodes /etc/group /etc/hosts /etc/passwd
entry etc-contents cat /etc/passwd /etc/group /etc/hosts
entry mounts sh -c 'cut -d" " -f2 /proc/self/mounts | sort -u'
entry mount-types sh -c 'cut -d" " -f2,3 /proc/self/mounts | sort -u'
entry interfaces sh -c 'tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d " "; ifconfig lo | grep -E "inet addr|UP"'
entry addresses-v6 sh -c 'cut -d" " -f1,6 /proc/net/if_inet6 || true'
entry routes sh -c 'tail -n +2 /proc/net/route'
entry ping tried ping -c 1 -w 2 127.0.0.1
entry namespaces sh -c 'ls /proc/self/ns | sort'
entry own-processes sh -c 'set -- /proc/[0-9]*; echo $#'
entry proc sh -c 'for f in cmdline cpuinfo filesystems loadavg meminfo mounts self stat uptime version sys/kernel/random/uuid sys/vm/overcommit_memory; do tried=no; test -e /proc/$f && tried=yes; echo $f $tried; done'
entry proc-writable sh -c 'echo 1 > /proc/sys/kernel/panic && echo writable'
entry kernel-settings sh -c 'cd /proc/sys; for f in kernel/overflowuid kernel/cap_last_cap net/ipv4/ip_unprivileged_port_start kernel/pid_max fs/pipe-max-size kernel/shmmax kernel/msgmax kernel/yama/ptrace_scope; do echo $f $(cat $f 2>&1); done'
entry ping-groups cat /proc/sys/net/ipv4/ping_group_range
entry cgroup sh -c 'cat /proc/self/cgroup | sed "s/:.*:.*/:/" | sort -u'
entry store sh -c 'ls -A /nix/store | cut -c33- | sort'
entry input sh -c 'stat -c "%F %a %Y" $input; cd $input; find . | sort | while read f; do stat -c "%n %F %a %Y" $f; done'
mkdir -p $tree/folder/folder; echo x > $tree/leaf; echo x > $tree/folder/leaf; ln -s ../leaf $tree/folder/link; ln $tree/leaf $tree/folder/again
entry trees $program trees $input $tree /build
entry disk-usage sh -c 'for t in $input $tree; do test "$(du -xs $t)" = "$(du -s $t)" && echo one; done; find $input -xdev | wc -l; find $tree -xdev | wc -l'
entry access-times sh -c 'touch -d 2001-01-01 old; cat old; test "$(stat -c %X old)" -gt 1790000000 && echo kept'
entry scratch $program scratch
entry memory $program memory
entry memory-settings cat /proc/sys/vm/overcommit_memory
entry kernel $program kernel
entry landlock $program landlock
entry cpus nproc
entry performance-events cat /proc/sys/kernel/perf_event_paranoid
entry write-to-input sh -c 'echo x > $input/new; echo x > $input/leaf; rm $input/leaf; chmod 700 $input'
entry write-to-store sh -c 'mkdir /nix/store/other && echo made'
entry write-elsewhere sh -c 'for d in / /bin /etc /nix /dev /proc /tmp /build /dev/shm; do touch $d/probe 2> /dev/null && echo $d; rm -f $d/probe; done'
entry set-id sh -c 'touch f; stat -c "%u %g %a" f; chmod u+s f; chmod g+s f; chmod 1755 f && echo sticky'
entry hard-links sh -c 'echo x > a; ln a b && stat -c %h a; ln $input/leaf c'
entry fifo-and-sockets sh -c 'mkfifo pipe && echo fifo; tried=$(mknod device c 1 3 2>&1) || echo "no device"'
entry attributes sh -c 'setfattr -n user.a -v b a 2> /dev/null && echo set || echo refused'
entry ownership sh -c 'chown 0 a; chown 1000:100 a && echo own; chgrp 30000 a'
entry mount tried mount -t tmpfs none /tmp
entry unshare sh -c 'unshare -r true && echo user; unshare -n true && echo network'
entry chroot tried chroot / true
entry set-host-name hostname other
entry raise-limits sh -c 'ulimit -n 2000000; ulimit -c 1; ulimit -c'
entry kill-init sh -c 'kill -0 1 && echo may'
entry shared-memory sh -c 'stat -f -c %T /dev/shm; echo x > /dev/shm/f; cat /dev/shm/f'
entry terminals sh -c 'ls -A /dev/pts | sort'
entry swap-and-memory-locks sh -c 'ulimit -l; ulimit -s; ulimit -u > /dev/null && echo known'
