import sys

from license_client.former import main

sys.exit(main())
