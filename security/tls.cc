#include "security/tls.h"

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <openssl/bio.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <ctime>

#include "absl/strings/str_cat.h"
#include "security/secret_file.h"

namespace shardline::security {
namespace {

using Bio = std::unique_ptr<BIO, decltype(&BIO_free)>;
using Certificate = std::unique_ptr<X509, decltype(&X509_free)>;
using Key = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;

Bio BytesOf(const std::string& pem) {
  return Bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())), BIO_free);
}

/// A password prompt would wait for a terminal: an encrypted key is one that cannot be read.
int NoPassword(char*, int, int, void*) { return -1; }

absl::StatusOr<Certificate> FirstCertificate(const std::string& path, const std::string& pem) {
  Certificate first(PEM_read_bio_X509(BytesOf(pem).get(), nullptr, NoPassword, nullptr), X509_free);
  if (first == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(path, " holds no certificate in PEM format"));
  }
  if (X509_cmp_current_time(X509_get0_notAfter(first.get())) < 0) {
    return absl::InvalidArgumentError(absl::StrCat("the certificate in ", path, " has expired"));
  }
  if (X509_cmp_current_time(X509_get0_notBefore(first.get())) > 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("the certificate in ", path, " is not valid yet; is the clock right?"));
  }
  return first;
}

absl::StatusOr<std::string> ReadAuthority(const std::string& path) {
  absl::StatusOr<std::string> pem = ReadSecretFile(path);
  if (!pem.ok()) return pem.status();
  const absl::StatusOr<Certificate> certificate = FirstCertificate(path, *pem);
  if (!certificate.ok()) return certificate.status();
  return pem;
}

/// Certificate and key in PEM, which belong together.
struct Pair {
  std::string certificate;
  std::string key;
};

absl::StatusOr<Pair> ReadPair(const std::string& certificate_path, const std::string& key_path) {
  absl::StatusOr<std::string> certificate = ReadSecretFile(certificate_path);
  if (!certificate.ok()) return certificate.status();
  absl::StatusOr<std::string> key = ReadSecretFile(key_path);
  if (!key.ok()) return key.status();
  const absl::StatusOr<Certificate> parsed = FirstCertificate(certificate_path, *certificate);
  if (!parsed.ok()) return parsed.status();
  const Key private_key(PEM_read_bio_PrivateKey(BytesOf(*key).get(), nullptr, NoPassword, nullptr),
                        EVP_PKEY_free);
  if (private_key == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        key_path, " holds no private key in PEM format (encrypted ones cannot be used)"));
  }
  if (X509_check_private_key(parsed->get(), private_key.get()) != 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the key in ", key_path, " is not that of the certificate in ", certificate_path));
  }
  return Pair{*std::move(certificate), *std::move(key)};
}

absl::Status OneWithoutOther(const char* given, const char* missing) {
  return absl::InvalidArgumentError(absl::StrCat(given, " needs ", missing, " beside it"));
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const ServerTls& files) {
  if (files.certificate.empty() && files.key.empty()) {
    if (!files.client_ca.empty()) return OneWithoutOther("--client-ca", "--server-certificate");
    return grpc::InsecureServerCredentials();
  }
  if (files.key.empty()) return OneWithoutOther("--server-certificate", "--server-key");
  if (files.certificate.empty()) return OneWithoutOther("--server-key", "--server-certificate");
  absl::StatusOr<Pair> pair = ReadPair(files.certificate, files.key);
  if (!pair.ok()) return pair.status();
  grpc::SslServerCredentialsOptions options(
      files.client_ca.empty() ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                              : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  if (!files.client_ca.empty()) {
    absl::StatusOr<std::string> authority = ReadAuthority(files.client_ca);
    if (!authority.ok()) return authority.status();
    options.pem_root_certs = *std::move(authority);
  }
  options.pem_key_cert_pairs.push_back({std::move(pair->key), std::move(pair->certificate)});
  return grpc::SslServerCredentials(options);
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeChannelCredentials(
    const ClientTls& files) {
  if (files.ca.empty()) {
    if (!files.certificate.empty()) return OneWithoutOther("--tls-certificate", "--tls-ca");
    if (!files.key.empty()) return OneWithoutOther("--tls-key", "--tls-ca");
    return grpc::InsecureChannelCredentials();
  }
  absl::StatusOr<std::string> authority = ReadAuthority(files.ca);
  if (!authority.ok()) return authority.status();
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = *std::move(authority);
  if (files.certificate.empty() != files.key.empty()) {
    return files.key.empty() ? OneWithoutOther("--tls-certificate", "--tls-key")
                             : OneWithoutOther("--tls-key", "--tls-certificate");
  }
  if (!files.certificate.empty()) {
    absl::StatusOr<Pair> pair = ReadPair(files.certificate, files.key);
    if (!pair.ok()) return pair.status();
    options.pem_cert_chain = std::move(pair->certificate);
    options.pem_private_key = std::move(pair->key);
  }
  return grpc::SslCredentials(options);
}

}  // namespace shardline::security
