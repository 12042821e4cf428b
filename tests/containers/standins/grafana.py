"""Stands in for Grafana, which Debian does not have: answers its health check if what we provision is there."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FOLDER = Path("/etc/grafana")


class Health(BaseHTTPRequestHandler):
    def do_GET(self):
        dashboards = [json.loads(path.read_text())["uid"] for path in (FOLDER / "dashboards").glob("*.json")]
        provisioned = [path.name for path in (FOLDER / "provisioning").glob("*/*.yml")]
        healthy = bool(dashboards and provisioned and self.path == "/api/health")
        self.send_response(200 if healthy else 503)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps({"dashboards": dashboards, "provisioned": provisioned}).encode())


ThreadingHTTPServer(("", 3000), Health).serve_forever()
