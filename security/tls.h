#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace grpc {
class ChannelCredentials;
class ServerCredentials;
}  // namespace grpc

namespace shardline::security {

/// Files of a listening side, in PEM; all empty: plain text.
struct ServerTls {
  std::string certificate;  // the server's, with the chain to its authority
  std::string key;          // the certificate's
  std::string client_ca;    // who signs clients' certificates; empty: clients need none
};

/// Files of a connecting side, in PEM; all empty: plain text.
struct ClientTls {
  std::string ca;           // who signs the server's certificate; turns TLS on
  std::string certificate;  // this client's, where the server asks for one
  std::string key;
  std::string server_name;  // that the server's certificate must bear; empty: the address's
};

/// Reads and checks the files before anything listens or connects: they exist, are PEM, key and
/// certificate belong together, nothing has expired. kInvalidArgument or kNotFound naming the file.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const ServerTls& files);
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeChannelCredentials(
    const ClientTls& files);

}  // namespace shardline::security
