"""What lighttpd's CGI tells a program of a request, as JSON: its environment."""

import json
import os
import sys

sys.stdout.write("Content-Type: application/json\r\n\r\n" + json.dumps(dict(os.environ)))
