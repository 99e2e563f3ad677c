"""Certificates signed by an authority made here, by the openssl command."""

import pathlib
import subprocess

import grpc


class Authority:
    def __init__(self, folder, name):
        self.folder, self.name = pathlib.Path(folder), name
        self.certificate = self.path("ca.pem")
        self.run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                 "-keyout", self.path("ca.key"), "-out", self.certificate, "-days", "2",
                 "-subj", f"/CN={name}")

    def path(self, what):
        return str(self.folder / f"{self.name}-{what}")

    @staticmethod
    def run(*command):
        subprocess.run(["openssl", *command], check=True, capture_output=True)

    def issue(self, who, days=2, address="127.0.0.1"):
        """(certificate, key) files, for the address where a server shows it."""
        key, request_file, certificate = (self.path(f"{who}.{end}") for end in ("key", "csr", "pem"))
        self.run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
                 key, "-out", request_file, "-subj", f"/CN={who}")
        extensions = self.path("ext")
        pathlib.Path(extensions).write_text(f"subjectAltName=IP:{address},DNS:shardline.test\n")
        self.run("x509", "-req", "-in", request_file, "-CA", self.certificate, "-CAkey",
                 self.path("ca.key"), "-CAcreateserial", "-out", certificate, "-days", str(days),
                 "-extfile", extensions)
        return certificate, key

    def credentials(self, pair=None):
        """A client's, which trusts this authority and shows `pair`."""
        shown = (read(pair[1]), read(pair[0])) if pair else ()
        return grpc.ssl_channel_credentials(read(self.certificate), *shown)


def read(path):
    return pathlib.Path(path).read_bytes()
