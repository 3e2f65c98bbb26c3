.PHONY: p4
P4C ?= p4c-bm2-ss
p4:
	cd p4/src && $(P4C) --std p4-16 -o ../build/understudy.json \
	    --p4runtime-files ../build/understudy.p4info.txtpb understudy_v1model.p4
	cd p4 && go generate .
