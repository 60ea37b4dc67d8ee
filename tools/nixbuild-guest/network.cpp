#include "network.hpp"

#include "files.hpp"

#include <nixbuild/sandbox/guest_job.hpp>

#include <arpa/inet.h>
#include <net/if.h>
#include <net/route.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cstring>
#include <filesystem>
#include <string>

namespace nixbuild::guest {

namespace {

UniqueFd open_socket() {
  return UniqueFd(
      system_call(kCode, "socket", [] { return ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0); }));
}

ifreq request_for(const std::string& name) {
  ifreq request{};
  std::memcpy(request.ifr_name, name.data(), std::min(name.size(), std::size_t{IFNAMSIZ - 1}));
  return request;
}

sockaddr address_of(const char* text) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  ::inet_pton(AF_INET, text, &address.sin_addr);
  sockaddr result{};
  static_assert(sizeof(result) == sizeof(address));
  std::memcpy(&result, &address, sizeof(result));
  return result;
}

void raise(int socket, const std::string& name) {
  auto request = request_for(name);
  // Beside what it has: an interface that loses MULTICAST here gets no answers to neighbour
  // solicitations.
  system_call(kCode, name, [&] { return ::ioctl(socket, SIOCGIFFLAGS, &request); });
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP | IFF_RUNNING);
  system_call(kCode, "raising " + name, [&] { return ::ioctl(socket, SIOCSIFFLAGS, &request); });
}

} // namespace

void raise_loopback() {
  raise(open_socket().get(), "lo");
}

void raise_network() {
  std::string name;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/class/net", ignored)) {
    if (entry.path().filename() != "lo") {
      name = entry.path().filename();
    }
  }
  if (name.empty()) {
    return;
  }
  const auto socket = open_socket();
  auto request = request_for(name);
  request.ifr_addr = address_of(sandbox::kGuestAddress);
  system_call(kCode, name, [&] { return ::ioctl(socket.get(), SIOCSIFADDR, &request); });
  request.ifr_netmask = address_of(sandbox::kGuestNetmask);
  system_call(kCode, name, [&] { return ::ioctl(socket.get(), SIOCSIFNETMASK, &request); });
  raise(socket.get(), name);
  rtentry route{};
  route.rt_dst = address_of("0.0.0.0");
  route.rt_genmask = address_of("0.0.0.0");
  route.rt_gateway = address_of(sandbox::kGuestGateway);
  route.rt_flags = RTF_UP | RTF_GATEWAY;
  system_call(kCode, "the default route", [&] { return ::ioctl(socket.get(), SIOCADDRT, &route); });
}

} // namespace nixbuild::guest
