module transom.dev/engines/guest

go 1.26.0
