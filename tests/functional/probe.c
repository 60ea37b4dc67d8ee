/* What only a program can ask of where it runs, for probe.sh: `probe QUESTION [PATH…]` prints what came of
 * it, by names of errors. */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/if_alg.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void say(const char *what, int good) { printf("%s: %s\n", what, good ? "yes" : strerrorname_np(errno)); }

static long entries, devices, far_numbers, other_numbers;
static dev_t device;

static int look(const char *path, const struct stat *info, int type, struct FTW *where) {
  (void)type;
  (void)where;
  if (entries++ == 0 || info->st_dev != device) {
    ++devices;
    device = info->st_dev;
  }
  far_numbers += info->st_ino > UINT32_MAX;
  DIR *folder = S_ISDIR(info->st_mode) ? opendir(path) : NULL;
  for (struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;) {
    struct stat there;
    if (strcmp(entry->d_name, "..") != 0 && fstatat(dirfd(folder), entry->d_name, &there, AT_SYMLINK_NOFOLLOW) == 0) {
      other_numbers += there.st_ino != entry->d_ino;
    }
  }
  if (folder != NULL) {
    closedir(folder);
  }
  return 0;
}

/* One tree is one file system, whose numbers are those of its files. */
static void tree(const char *path) {
  entries = devices = far_numbers = other_numbers = 0;
  nftw(path, look, 16, FTW_PHYS | FTW_MOUNT);
  const long on_one = entries;
  const long changes = devices;
  entries = devices = 0;
  nftw(path, look, 16, FTW_PHYS);
  printf("all %ld on one file system: %s; device numbers: %ld; inode numbers beyond 32 bits: %ld, other in folders: %ld\n",
         entries, on_one == entries ? "yes" : "no", changes, far_numbers, other_numbers);
}

static void scratch(void) {
  void *block = NULL;
  int fd = open("direct", O_CREAT | O_RDWR | O_DIRECT, 0600);
  say("O_DIRECT", fd >= 0 && posix_memalign(&block, 4096, 4096) == 0 && memset(block, 'x', 4096) != NULL &&
                      write(fd, block, 4096) == 4096);
  struct fiemap map = {.fm_length = FIEMAP_MAX_OFFSET};
  say("FIEMAP", ioctl(fd, FS_IOC_FIEMAP, &map) == 0);
  say("O_TMPFILE", open(".", O_TMPFILE | O_RDWR, 0600) >= 0);
  say("fallocate", posix_fallocate(fd, 0, 1 << 20) == 0);
}

static int algorithm(const char *type, const char *name) {
  struct sockaddr_alg address = {.salg_family = AF_ALG};
  strcpy((char *)address.salg_type, type);
  strcpy((char *)address.salg_name, name);
  const int fd = socket(AF_ALG, SOCK_SEQPACKET, 0);
  return fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0;
}

static int sockets_listed(const void *request, size_t size) {
  const int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG);
  struct {
    struct nlmsghdr head;
    char body[96];
  } message = {.head = {.nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP}};
  message.head.nlmsg_len = (unsigned)NLMSG_LENGTH(size);
  memcpy(message.body, request, size);
  char answer[16384];
  if (fd < 0 || send(fd, &message, message.head.nlmsg_len, 0) < 0 || recv(fd, answer, sizeof answer, 0) < 0) {
    return 0;
  }
  const struct nlmsghdr *head = (const struct nlmsghdr *)answer;
  if (head->nlmsg_type == NLMSG_ERROR) {
    errno = -((const struct nlmsgerr *)NLMSG_DATA(head))->error;
    return errno == 0;
  }
  return 1;
}

static int over_vsock(void) {
  struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_LOCAL, .svm_port = 4711};
  const int here = socket(AF_VSOCK, SOCK_STREAM, 0);
  const int there = socket(AF_VSOCK, SOCK_STREAM, 0);
  return here >= 0 && bind(here, (struct sockaddr *)&address, sizeof address) == 0 && listen(here, 1) == 0 &&
         connect(there, (struct sockaddr *)&address, sizeof address) == 0;
}

/* A connection over the loopback device with the kernel's TLS switched on. */
static int with_tls(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t size = sizeof address;
  const int here = socket(AF_INET, SOCK_STREAM, 0);
  const int there = socket(AF_INET, SOCK_STREAM, 0);
  return bind(here, (struct sockaddr *)&address, sizeof address) == 0 && listen(here, 1) == 0 &&
         getsockname(here, (struct sockaddr *)&address, &size) == 0 &&
         connect(there, (struct sockaddr *)&address, sizeof address) == 0 &&
         setsockopt(there, IPPROTO_TCP, TCP_ULP, "tls", 4) == 0;
}

static void kernel(void) {
  say("AF_ALG sha256", algorithm("hash", "sha256"));
  say("AF_ALG hmac(sha512)", algorithm("hash", "hmac(sha512)"));
  say("AF_ALG cbc(aes)", algorithm("skcipher", "cbc(aes)"));
  say("AF_ALG gcm(aes)", algorithm("aead", "gcm(aes)"));
  say("AF_ALG stdrng", algorithm("rng", "stdrng"));
  const struct unix_diag_req local = {.sdiag_family = AF_UNIX, .udiag_states = ~0U, .udiag_show = UDIAG_SHOW_NAME};
  say("Unix sockets listed", sockets_listed(&local, sizeof local));
  const struct inet_diag_req_v2 tcp = {.sdiag_family = AF_INET, .sdiag_protocol = IPPROTO_TCP, .idiag_states = ~0U};
  say("TCP sockets listed", sockets_listed(&tcp, sizeof tcp));
  say("vsock", over_vsock());
  say("SCTP", socket(AF_INET, SOCK_STREAM, IPPROTO_SCTP) >= 0);
  say("TLS", with_tls());
}

int main(int count, char **words) {
  const char *question = count > 1 ? words[1] : "";
  if (strcmp(question, "trees") == 0) {
    for (int i = 2; i < count; ++i) {
      tree(words[i]);
    }
  } else if (strcmp(question, "scratch") == 0) {
    scratch();
  } else if (strcmp(question, "kernel") == 0) {
    kernel();
  } else if (strcmp(question, "landlock") == 0) {
    say("Landlock", syscall(SYS_landlock_create_ruleset, NULL, 0, 1) > 0);
  } else if (strcmp(question, "memory") == 0) {
    say("4 TiB of memory", malloc((size_t)4 << 40) != NULL);
  } else if (strcmp(question, "input") == 0) {
    const int mode = fcntl(0, F_GETFL) & O_ACCMODE;
    printf("standard input: %s\n", mode == O_RDWR ? "read and write" : mode == O_RDONLY ? "read" : "write");
  } else {
    return 2;
  }
  return 0;
}
